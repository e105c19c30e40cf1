"""Whether the sets on this machine are the ones that milkit knows."""

from milkit.data.datasets.classic import Classic
from milkit.data.datasets.folders import bytes_of, find, known_sums
from milkit.data.datasets.mnist import read_mnist
from milkit.data.datasets.records import CLASSIC, Known, absent


def verify(record: Known) -> None:
    """Read all files of a set and compare them with the known digests.

    Raises:
        DataError: the set is not here, or a file is another one; names it.
    """
    if not all(find(file) for file in record.files):
        raise absent(record)
    if record.name in CLASSIC:
        Classic(record.name).read()
    if "mnist/mnist.npz" in record.files:
        read_mnist()
    for file in known_sums():
        if file.startswith(record.files):
            bytes_of(file, True, f"from {record.where}")
