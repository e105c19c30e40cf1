"""`milkit view` as a user starts and ends it."""

import http.client
import re
import signal
import subprocess
import sys
import time

import pytest

from milkit.cli import main


def test_it_says_an_address_serves_and_ends_well(home):
    command = [sys.executable, "-m", "milkit", "view", str(home / "run"), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    connection = None
    try:
        assert process.stdout.readline() == "12 slides, 10 without a file\n"
        address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\?token=[\w-]{43})\n", process.stdout.readline())
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=30)
        connection.request("GET", address[2])
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 303
        cookie = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
        connection.request("GET", "/run", headers=cookie)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        connection.request("GET", "/slide/1/map?kind=integrated&label=yes", headers=cookie)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)  # while the models are asked
        _, errors = process.communicate(timeout=300)  # on a busy machine what is being compiled ends late
        assert (process.returncode, errors) == (0, "")
    finally:
        if connection is not None:
            connection.close()
        process.kill()
        process.communicate()  # which closes its pipes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "There is no run folder at nowhere"),
        (["nowhere", "--port", "99999"], "--port is 99999"),
        ([], "RUN"),
        (["{run}", "--slides", "nowhere"], "--slides nowhere is no folder"),
        (["{run}", "--store", "nowhere.h5"], "--store nowhere.h5 is not there"),
        (["{run}", "--store", "{run}/config.json"], "config.json"),
        (["{home}"], "config.json"),
    ],
)
def test_mistakes_are_said(home, capsys, arguments, said):
    filled = [a.format(run=home / "run", home=home) for a in arguments]
    assert main(["view", *filled, "--no-browser"]) == 2
    assert said in capsys.readouterr().err
