"""What a researcher needs to test a model of their own: the contract battery and the algorithmic tests.

One line of pytest holds a model to every contract: `def test_my_model(): model_battery(MyModel())`.
"""

from milkit.testing.model_battery import check_all as model_battery

__all__ = ["model_battery"]
