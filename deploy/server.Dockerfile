# Prefect's server with Redis messaging, in the versions that the tests ran with. No code of Rowshot is in it: the server
# only keeps and shows what runs tell it. Built by deploy/compose.yaml.
FROM python:3.11.13-slim-bookworm

COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt prefect prefect-redis \
    && useradd --create-home prefect

USER prefect
WORKDIR /home/prefect
COPY deploy/prepare_database.py .
