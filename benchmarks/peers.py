"""The peers that milkit's training speed is measured against: a hand-written PyTorch loop and torchmil's Trainer.

Both train the attention net of the classic sets (d-256-128-64, attention 64) on one bag a step. The loop is as fast as
plain PyTorch lets one write it: tensors made before, no logging, no validation, gradients set to None.
"""

import time
from collections.abc import Sequence

import numpy as np


def _net(features: int, gated: bool):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
            )
            self.tanh, self.score = nn.Linear(64, 64), nn.Linear(64, 1, bias=False)
            self.gate = nn.Linear(64, 64) if gated else None
            self.classifier = nn.Linear(64, 1)

        def forward(self, x):
            h = self.encoder(x)
            hidden = torch.tanh(self.tanh(h))
            if self.gate is not None:
                hidden = hidden * torch.sigmoid(self.gate(h))
            attention = torch.softmax(self.score(hidden), 0)
            return self.classifier((attention * h).sum(0))

    return Net()


def torch_loop(
    bags: Sequence[np.ndarray], labels: Sequence[int], *, epochs: int, threads: int, optimizer: str = "adam",
    gated: bool = False, fused: bool = False, seed: int = 0,
) -> float:  # fmt: skip
    """Microseconds a step of a hand-written PyTorch loop.

    Args:
        bags: [n, d] each, float32.
        labels: 0 or 1 each.
        epochs: timed, after one that warms up.
        threads: that PyTorch may use.
        optimizer: "adam" (learning rate 5e-4) or "sgd" (momentum .9), decay 5e-3.
        gated: gated attention.
        fused: PyTorch's fused optimiser in place of its default.
        seed: of weights and order.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = _net(bags[0].shape[1], gated)
    if optimizer == "adam":
        step: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=5e-3, fused=fused)
    else:
        step = torch.optim.SGD(model.parameters(), lr=5e-4, momentum=0.9, weight_decay=5e-3, fused=fused)
    data = [(torch.from_numpy(x), torch.tensor([float(y)])) for x, y in zip(bags, labels, strict=True)]
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    began = 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:
            began = time.perf_counter()
        for i in torch.randperm(len(data)).tolist():
            x, y = data[i]
            step.zero_grad(set_to_none=True)
            bce(model(x), y).backward()
            step.step()
    return (time.perf_counter() - began) / (epochs * len(data)) * 1e6


def torchmil_trainer(
    bags: Sequence[np.ndarray], labels: Sequence[int], *, epochs: int, threads: int, seed: int = 0
) -> float:
    """Microseconds a training step of torchmil's Trainer, with its progress bar and messages off.

    Its Trainer validates after every epoch, on the training set when it is given no other; it is given one bag here, so
    that next to nothing but training is timed.
    """
    import torch
    from tensordict import TensorDict
    from torch import nn
    from torch.utils.data import DataLoader
    from torchmil.models import ABMIL
    from torchmil.utils import Trainer

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    features = bags[0].shape[1]
    encoder = nn.Sequential(
        nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
    )
    model = ABMIL(in_shape=(features,), att_dim=64, feat_ext=encoder)
    data = [
        TensorDict({
            "X": torch.from_numpy(x)[None], "Y": torch.tensor([float(y)]),
            "mask": torch.ones((1, len(x)), dtype=torch.uint8),
        })
        for x, y in zip(bags, labels, strict=True)
    ]  # fmt: skip

    def loader(items: list, shuffle: bool) -> DataLoader:
        return DataLoader(items, batch_size=1, shuffle=shuffle, collate_fn=lambda batch: batch[0])

    adam = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=5e-3)
    trainer = Trainer(model, adam, device="cpu", disable_pbar=True, verbose=False)
    train, one = loader(data, True), loader(data[:1], False)
    trainer.train(1, train, one)
    began = time.perf_counter()
    trainer.train(epochs, train, one)
    return (time.perf_counter() - began) / (epochs * len(data)) * 1e6
