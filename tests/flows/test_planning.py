"""What planning must leave alone: servers, providers and the output folder."""

import gzip
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import environment, write_csv

SKUS = ("a", "b", "c", "d")


@pytest.mark.parametrize("arguments", [["plan", "shop.csv.gz"], ["run", "shop.csv.gz", "--dry-run"], ["status"]])
def test_planning_asks_nobody(tmp_path: Path, arguments: list[str]) -> None:
    """A plan and a status touch neither the Prefect server nor the provider that are configured, start no server of
    their own, and leave nothing in the output folder.
    """
    (tmp_path / "shop.csv.gz").write_bytes(gzip.compress(write_csv(tmp_path / "shop.csv", SKUS).read_bytes()))
    script = (
        "import sys; from flows.__main__ import main; code = main(sys.argv[1:]); "
        "loaded = {'prefect.server', 'uvicorn', 'flows.tasks.server', 'flows.generate_images'} & set(sys.modules); "
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    with socket.socket() as prefect, socket.socket() as provider:
        addresses = []
        for listener in (prefect, provider):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.settimeout(0)
            addresses.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
        variables = {
            "PREFECT_API_URL": f"{addresses[0]}/api",
            "ANYCAP_API_ENDPOINT": addresses[1],
            "ANYCAP_API_KEY": "k",
            "PREFECT_HOME": str(tmp_path / "prefect"),
        }
        generator = [] if arguments == ["status"] else ["--generator", "anycap"]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments, *generator],
            cwd=tmp_path,
            env=environment(tmp_path, **variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done
        for listener in (prefect, provider):
            with pytest.raises(BlockingIOError):
                listener.accept()
    if arguments != ["status"]:
        assert "4  new" in done.stdout
        assert "To buy: 4 images" in done.stdout
        assert done.stdout.count("e.g. line") == 3
    assert not (tmp_path / "output").exists()
    assert not list(tmp_path.glob("prefect/*.db"))
