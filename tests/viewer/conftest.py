"""A tiny finished run of slides whose one telling tile is known, two slide files, and a server of its page."""

import csv
import http.client
import json
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import planted
import pytest
import slide_files

sys.path.insert(0, str(Path(__file__).parent))

from viewed import MPP, SIZE, WIDTH, pixels, slide_bags

from milkit.data.cohort import Cohort
from milkit.data.store import write_store
from milkit.execute.run import execute
from milkit.models import InstancePooling
from milkit.report.results import write_results
from milkit.viewer.opened import open_viewer
from milkit.viewer.server import ViewerServer


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """`run`, `store.h5`, `table.csv`, and `slides` with s1.tif and s3.tif, which the store names."""
    folder = tmp_path_factory.mktemp("view")
    write_store(folder / "store.h5", slide_bags(), dtype="float32", encoder="made-up", mpp=MPP, tile_px=WIDTH)
    (folder / "slides").mkdir()
    for name in ("s1", "s3"):
        slide_files.write(folder / "slides" / f"{name}.tif", pixels(), slide_files.aperio(str(MPP)))
    facts = [
        json.dumps({"slide": str(folder / "slides" / f"s{i}.tif"), "size_px": SIZE, "mpp": MPP, "width_px": WIDTH})
        for i in range(12)
    ]
    with h5py.File(folder / "store.h5", "r+") as file:
        file.create_dataset("slides", data=facts, dtype=h5py.string_dtype("utf-8"))
    with open(folder / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerows([("slide_id", "patient_id", "label")])
        table.writerows((f"s{i}", f"p{i}", ["no", "yes"][i % 2]) for i in range(12))
    base = planted.experiment(width=4)
    study = replace(
        base, data=Cohort(str(folder / "table.csv"), str(folder / "store.h5")), unit="slide", seeds=1, name="slides",
        model=InstancePooling(pooling="max", encoder=()), train=replace(base.train, epochs=20, standardise=True),
    )  # fmt: skip
    execute(study, folder / "run")
    write_results(folder / "run")
    return folder


@pytest.fixture(scope="session")
def serve():
    """Serve a viewer in a thread until the tests end."""
    servers = []

    def start(viewer):
        servers.append(ViewerServer(viewer))
        servers[-1].serve_in_background()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
        server.viewer.close(1.0)


@pytest.fixture(scope="session")
def server(home, serve):
    """A server of the run."""
    return serve(open_viewer(home / "run"))


@pytest.fixture
def get():
    """Ask a server; gives status, headers and body."""

    def ask(server, path, *, method="GET", cookie=True, host=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.access.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            if host != "":
                connection.putheader("Host", host or f"127.0.0.1:{server.access.port}")
            if cookie:
                connection.putheader("Cookie", server.access.cookie.split(";")[0] if cookie is True else cookie)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    return ask
