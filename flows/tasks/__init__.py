"""The tasks of the flows: retries, logging and artifacts around `flows.batch` and `blocks`."""
