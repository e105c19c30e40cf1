"""Who may ask the server, for what, and that pixels and scores arrive as they are."""

import base64
import io
import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewed import CORNER, TOLD, WIDTH, corners, pixels

from milkit.errors import ConfigError
from milkit.heatmaps.scores import slide_scores
from milkit.slides import open_slide
from milkit.viewer import pictures
from milkit.viewer.files import SlideFile
from milkit.viewer.maps import written
from milkit.viewer.opened import open_viewer
from milkit.viewer.server import ViewerServer


def decoded(body):
    return np.asarray(Image.open(io.BytesIO(body)))


def number(server, slide_id):
    return [one.slide for one in server.viewer.run.slides].index(slide_id)


def raw(server, line):
    """Status and body of a request that is sent as it is."""
    with socket.create_connection(("127.0.0.1", server.access.port), timeout=30) as connection:
        cookie = server.access.cookie.split(";")[0]
        text = f"{line}\r\nHost: 127.0.0.1:{server.access.port}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        connection.sendall(text.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# --- who may ask ---


def test_the_token_opens_the_page_and_becomes_a_cookie(server, get):
    status, headers, _ = get(server, server.access.url.split(str(server.access.port))[1], cookie=False)
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    status, headers, body = get(server, "/", cookie=cookie.split(";")[0])
    assert status == 200
    assert b"<canvas" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert set(re.findall(r"-src ([^;]+)", policy)) == {"'none'", "'self'"}
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/run", "/viewer.js", "/slide/0", "/slide/0/square/0/0/0", "/none"])
def test_without_the_token_there_is_nothing(server, get, path):
    port = server.access.port
    for cookie in (
        False,
        "milkit=x",
        f"milkit_{port}=",
        f"milkit_{port}=wrong",
        f"milkit_{port + 1}={server.access.token}",
    ):
        status, _, body = get(server, path, cookie=cookie)
        assert (status, b"token" in body) == (403, True)


@pytest.mark.parametrize("token", ["x", "%C3%BC", "%00", "%FF"])
def test_a_wrong_token_is_refused_even_with_the_cookie(server, get, token):
    status, headers, _ = get(server, f"/?token={token}")
    assert status == 403
    assert "Set-Cookie" not in headers


def test_other_hosts_are_refused(server, get):
    port = server.access.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"127.0.0.1:{port + 1}",
        f"127.0.0.1.evil:{port}",
        "",
    ):
        assert get(server, "/run", host=host)[0] == 403
        assert get(server, f"/?token={server.access.token}", host=host)[0] == 403
    assert get(server, "/run", host=f"localhost:{port}")[0] == 200


def test_it_listens_on_the_loopback_only(server):
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
def test_only_get_is_answered(server, get, method):
    status, headers, _ = get(server, "/run", method=method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd", "/slide/1/square/3/0/0", "/slide/1/square/999999999/0/0", "/slide/1/square/0/9999/0",
        "/etc/passwd", "file:///etc/passwd", "/page/index.html", "/viewer.css/../server.py", "/viewer.css%00", "/run\0",
        "/\0run", "/slide/../run", "/slide/0/square/../../run", "/slide/-1", "/slide/99999", "/slide/1e3", "/slide/１",
        "/slide/s1", "/slide/0/square/0/0", "/slide/0/square/0/0/-1", "/slide/0/square/0/0/0/", "/slide/0000000000",
        "/RUN", "/run/", "/run#", "http://127.0.0.1/run", "*",
    ],
)  # fmt: skip
def test_no_path_leads_anywhere_else(server, path):
    assert server.viewer.found["s1"].path is not None  # slide 1
    path = path.encode("utf-8").decode("latin-1")
    status, body = raw(server, f"GET {path} HTTP/1.1")
    said = json.loads(body)["error"]
    assert status == 404, (status, said)
    assert "root:" not in said


def test_what_is_no_http_is_refused_in_the_same_form(server):
    for line in ("GET /run HTTP/9.9", "BREW /run HTTP/1.1", "GET /" + 70000 * "x" + " HTTP/1.1"):
        status, body = raw(server, line)
        assert 400 <= status < 600
        assert "Traceback" not in body.decode()
    assert raw(server, "GET /run HTTP/1.1")[0] == 200


def test_a_bug_shows_nothing_of_its_inside(server, get, monkeypatch, capsys):
    monkeypatch.setattr(server.viewer.pictures, "square", lambda *_: 1 / 0)
    status, _, body = get(server, "/slide/1/square/0/0/0")
    assert status == 500
    assert "division" not in body.decode()
    assert "division" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(server):
    with pytest.raises(ConfigError, match="cannot be listened on"):
        ViewerServer(server.viewer, server.access.port)


# --- what it gives ---


def test_the_list(server, get):
    run = json.loads(get(server, "/run")[2])
    assert (run["name"], run["kind"], run["names"], run["why_no_map"]) == ("slides", "Binary", ["no", "yes"], "")
    assert [one["slide"] for one in run["slides"]] == sorted(f"s{i}" for i in range(12))
    by_id = {one["slide"]: one for one in run["slides"]}
    assert [not by_id[f"s{i}"]["missing"] for i in range(4)] == [False, True, False, True]
    assert "There is no file" in by_id["s0"]["missing"]
    one = by_id["s1"]
    assert (one["truth"], one["said"], one["right"], one["patient"], one["models"]) == ("yes", "yes", True, "p1", 1)
    assert re.fullmatch(r"(repeat \d )?fold \d", one["held_out"])


def test_squares_of_full_resolution_are_the_pixels_of_the_file(server, home, get):
    i = number(server, "s1")
    facts = json.loads(get(server, f"/slide/{i}")[2])
    assert facts == {"width": 600, "height": 352, "mpp": 0.5, "side": 256, "zoom": 2}
    with open_slide(home / "slides" / "s1.tif") as slide:
        for column in range(3):
            for row in range(2):
                got = decoded(get(server, f"/slide/{i}/square/0/{column}/{row}")[2])
                size = min(256, 600 - 256 * column), min(256, 352 - 256 * row)
                assert got.shape == (size[1], size[0], 3)
                np.testing.assert_array_equal(got, slide.read_level(0, (256 * column, 256 * row), size))
                np.testing.assert_array_equal(got, pixels()[256 * row :, 256 * column :][:256, :256])


def test_squares_of_a_coarser_zoom_are_means_of_pixels(server, get):
    i = number(server, "s1")
    got = decoded(get(server, f"/slide/{i}/square/1/1/0")[2])
    assert got.shape == (176, 44, 3)  # 352 / 2, (600 - 512) / 2
    by_hand = pixels()[:, 512:].reshape(176, 2, 44, 2, 3).mean((1, 3))
    assert np.abs(got - by_hand).max() <= 0.5
    assert decoded(get(server, f"/slide/{i}/square/2/0/0")[2]).shape == (88, 150, 3)


def test_a_picture_of_a_tile_is_the_tile(server, get):
    x, y = corners()[TOLD].tolist()
    got = decoded(get(server, f"/slide/{number(server, 's1')}/tile/{x}/{y}/{WIDTH}")[2])
    assert got.shape == (128, 128, 3)
    assert np.abs(got[8:-8, 8:-8].astype(int) - (120, 60, 130)).max() == 0  # its border sees the neighbours
    assert get(server, f"/slide/{number(server, 's1')}/tile/{x}/{y}/999999")[0] == 404


def test_the_map_is_that_of_the_heat_maps(server, home, get):
    i = number(server, "s1")
    status, _, body = get(server, f"/slide/{i}/map?kind=instance&label=yes")
    assert status == 200
    said = json.loads(body)
    expected = slide_scores(home / "run", "s1", kind="instance", label="yes")

    def array(name, dtype):
        return np.frombuffer(base64.b64decode(said[name]), dtype)

    np.testing.assert_array_equal(array("xy_px", "<i4").reshape(-1, 2), corners())
    np.testing.assert_array_equal(array("scores", "<f4"), expected.scores)
    assert array("ranks", "<i4")[TOLD] == 1
    assert sorted(array("ranks", "<i4")) == list(range(1, 20))
    told = array("colours", "u1").reshape(-1, 4)[TOLD].astype(int)
    assert np.abs(told - (0xFD, 0xE7, 0x25, 255)).max() <= 1  # the upper end of viridis, which libraries cut or round
    assert said["width_px"] == WIDTH
    assert corners().min() == CORNER
    assert said["legend"].endswith(expected.legend())
    assert "rank within the slide" in said["legend"]
    assert said["marks"] == []


@pytest.mark.parametrize(
    "query", ["other=1", "kind=attention&label=", "kind=none&label=yes", "kind=instance&label=maybe"]
)
def test_a_map_that_cannot_be_had_says_why(server, get, query):
    status, _, body = get(server, f"/slide/1/map?{query}")
    assert status == 422
    assert json.loads(body)["error"]


def test_a_map_says_what_is_not_known_and_who_has_seen_the_slide(home):
    scores = slide_scores(home / "run", "s1", kind="instance", label="yes")
    values = scores.scores.copy()
    values[3] = np.nan
    said = written(replace(scores, scores=values, held_out=False))
    json.dumps(said, allow_nan=False)
    assert np.frombuffer(base64.b64decode(said["ranks"]), "<i4")[3] == 0
    assert np.frombuffer(base64.b64decode(said["colours"]), "u1").reshape(-1, 4)[3].tolist() == [0, 0, 0, 0]
    assert said["marks"] == ("seen in training",)
    assert "SEEN IN TRAINING" in said["legend"]


def test_slides_without_a_file_say_why_but_have_their_map(server, get):
    i = number(server, "s0")
    for path in (f"/slide/{i}", f"/slide/{i}/square/0/0/0", f"/slide/{i}/tile/0/0/64"):
        status, _, body = get(server, path)
        assert status == 422
        assert "--slides DIR" in json.loads(body)["error"]
    assert get(server, f"/slide/{i}/map?kind=instance&label=yes")[0] == 200


def test_a_damaged_slide_and_one_of_another_size_say_so(home, serve, get, tmp_path):
    (tmp_path / "s1.tif").write_bytes(b"II*\0 no slide")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "s3.png")
    server = serve(open_viewer(home / "run", slides=tmp_path))
    status, _, body = get(server, f"/slide/{number(server, 's1')}/square/0/0/0")
    assert status == 422
    assert "Traceback" not in body.decode()
    status, _, body = get(server, f"/slide/{number(server, 's3')}")
    assert status == 422
    assert "50 x 40 pixels" in json.loads(body)["error"]


def test_few_slides_stay_open_and_the_cache_is_bounded(home, monkeypatch):
    monkeypatch.setattr(pictures, "OPEN", 2)
    monkeypatch.setattr(pictures, "CACHED_BYTES", 400_000)
    file = SlideFile(home / "slides" / "s1.tif")
    shown = pictures.Pictures({str(i): file for i in range(5)})
    for i in range(5):
        assert shown.square(str(i), 0, 0, 0)
    assert list(shown._open) == ["3", "4"]
    assert sum(map(len, shown._cache.values())) == shown._cached_bytes <= 400_000
    with shown.slide("0") as kept:
        shown.square("1", 0, 0, 0)
        shown.square("2", 0, 0, 0)
        assert kept.read_level(0, (0, 0), (4, 4)).shape == (4, 4, 3)  # in use, so not closed
        shown.close()
        assert list(shown._open) == ["0"]
    assert not shown._open


def test_runs_without_places_of_tiles_say_so(home, serve, get, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "results.json", "predictions.csv", "folds.csv"):
        (run / name).write_bytes((home / "run" / name).read_bytes())
    config = json.loads((run / "config.json").read_text())
    config["experiment"]["data"] = {"type": "Classic", "name": "musk1"}
    (run / "config.json").write_text(json.dumps(config))
    server = serve(open_viewer(run))
    listed = json.loads(get(server, "/run")[2])
    assert len(listed["slides"]) == 12
    assert listed["why_no_map"].startswith("No heat maps: the run's data are not")
    assert get(server, "/slide/0/map?kind=attention&label=")[0] == 422
    config["experiment"]["data"] = {"type": "Cohort", "table": "t.csv", "features": "gone.h5"}
    (run / "config.json").write_text(json.dumps(config))
    assert "gone.h5, are not there" in open_viewer(run).maps


def test_the_page_asks_nobody_else():
    page = Path(pictures.__file__).parent / "page"
    html = (page / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)  # the policy would stop them
    for file in page.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.", text), file
