"""Plain PyTorch modules of models that torchmil has not, from their papers, as fast as simple code makes them.

One bag [n, d] in, its logit and the loss of label 1 out; no mask and no padding, which one bag does not need.
"""

import torch
from torch import nn
from torch.nn import functional as F


class OneBag(nn.Module):
    """The loss of a logit; a model with further losses has its own."""

    def compute_loss(self, y, x):
        """The logit, and the parts of the loss."""
        logit = self(x[0])
        return logit, {"loss": F.binary_cross_entropy_with_logits(logit.reshape(1), y)}


class Gated(nn.Module):
    """Scores of gated attention [n, heads]."""

    def __init__(self, width, attention, heads=1):
        super().__init__()
        self.tanh, self.gate = nn.Linear(width, attention), nn.Linear(width, attention)
        self.score = nn.Linear(attention, heads, bias=False)

    def forward(self, h):
        """Scores of instances."""
        return self.score(torch.tanh(self.tanh(h)) * torch.sigmoid(self.gate(h)))


class ABMIL(OneBag):
    """An encoder of one layer and gated attention."""

    def __init__(self, features, width, attention):
        super().__init__()
        self.encoder, self.pool, self.classifier = (
            nn.Linear(features, width),
            Gated(width, attention),
            nn.Linear(width, 1),
        )

    def forward(self, x):
        """The bag's logit."""
        h = torch.relu(self.encoder(x))
        return self.classifier(torch.softmax(self.pool(h), 0).T @ h)


class CLAMMB(OneBag):
    """Two branches whose difference is the logit; without instance classifiers."""

    def __init__(self, features, width=512, attention=256):
        super().__init__()
        self.encoder, self.pool = nn.Linear(features, width), Gated(width, attention, 2)
        self.classifiers = nn.ModuleList([nn.Linear(width, 1) for _ in range(2)])

    def forward(self, x):
        """The bag's logit."""
        h = torch.relu(self.encoder(x))
        z = torch.softmax(self.pool(h), 0).T @ h
        return self.classifiers[1](z[1]) - self.classifiers[0](z[0])


class DTFD(OneBag):
    """Two tiers, four pseudo-bags, their attention-pooled features distilled."""

    def __init__(self, features, width=512, attention=128):
        super().__init__()
        self.projection = nn.Linear(features, width, bias=False)
        self.tier1, self.tier2 = Gated(width, attention), Gated(width, attention)
        self.classifier1, self.classifier2 = nn.Linear(width, 1), nn.Linear(width, 1)

    def compute_loss(self, y, x):
        """The logit, and the parts of the loss."""
        h = torch.relu(self.projection(x[0]))
        scores, groups = self.tier1(h), torch.randperm(len(h)).tensor_split(4)
        pooled = torch.cat([torch.softmax(scores[g], 0).T @ h[g] for g in groups])
        first = F.binary_cross_entropy_with_logits(self.classifier1(pooled)[:, 0], y.expand(4))
        kept = pooled.detach()
        logit = self.classifier2(torch.softmax(self.tier2(kept), 0).T @ kept)
        second = F.binary_cross_entropy_with_logits(logit.reshape(1), y)
        return logit, {"tier1": first, "tier2": second}


class ACMIL(OneBag):
    """Five branches of gated attention, their classifiers, and the similarity of their attentions."""

    def __init__(self, features, width=512, attention=128, branches=5):
        super().__init__()
        self.projection, self.pool = nn.Linear(features, width, bias=False), Gated(width, attention, branches)
        self.each = nn.ModuleList([nn.Linear(width, 1) for _ in range(branches)])
        self.classifier = nn.Linear(width, 1)

    def compute_loss(self, y, x):
        """The logit, and the parts of the loss."""
        h = torch.relu(self.projection(x[0]))
        a = torch.softmax(self.pool(h), 0).T
        z = a @ h
        logit = self.classifier(z.mean(0))
        own = torch.cat([head(z[i]) for i, head in enumerate(self.each)])
        unit = F.normalize(a, dim=1)
        similarity = (unit @ unit.T).triu(1).sum() / (len(a) * (len(a) - 1) / 2)
        bce = F.binary_cross_entropy_with_logits
        return logit, {"slide": bce(logit, y), "branches": bce(own, y.expand(len(own))), "similarity": similarity}


class Attend(nn.Module):
    """ILRA's attention: projections, multi-head attention, two sums, perhaps a gate."""

    def __init__(self, query, keys, width, heads, gated=True):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(query, width), nn.Linear(keys, width), nn.Linear(keys, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.hidden, self.gate = nn.Linear(width, width), nn.Linear(query, width) if gated else None

    def forward(self, query, keys):
        """What the queries find."""
        q = self.query(query)
        o = q + self.attention(q, self.key(keys), self.value(keys), need_weights=False)[0]
        o = o + torch.relu(self.hidden(o))
        return o if self.gate is None else o * F.silu(self.gate(query))


class ILRA(OneBag):
    """Two low-rank blocks and pooling by a query."""

    def __init__(self, features, width=256, heads=8, rank=2):
        super().__init__()
        self.latents = nn.ParameterList([nn.Parameter(torch.randn(1, rank, width)) for _ in range(2)])
        widths = (features, width)
        self.inward = nn.ModuleList([Attend(width, d, width, heads) for d in widths])
        self.outward = nn.ModuleList([Attend(d, width, width, heads) for d in widths])
        self.seed, self.pool = nn.Parameter(torch.randn(1, 1, width)), Attend(width, width, width, heads, gated=False)
        self.classifier = nn.Linear(width, 1)

    def forward(self, x):
        """The bag's logit."""
        h = x[None]
        for latent, inward, outward in zip(self.latents, self.inward, self.outward, strict=True):
            h = outward(h, inward(latent, h))
        return self.classifier(self.pool(self.seed, h)[0, 0])


class Chowder(OneBag):
    """The five highest and five lowest scores into a small network."""

    def __init__(self, features):
        super().__init__()
        self.score = nn.Linear(features, 1)
        self.head = nn.Sequential(
            nn.Linear(10, 200), nn.Sigmoid(), nn.Linear(200, 100), nn.Sigmoid(), nn.Linear(100, 1)
        )

    def forward(self, x):
        """The bag's logit."""
        scores = self.score(x)[:, 0]
        return self.head(torch.cat([scores.topk(5)[0], scores.topk(5, largest=False)[0]]))


class MeanOfInstances(OneBag):
    """The mean of the instances' logits."""

    def __init__(self, features, width=512):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x):
        """The bag's logit."""
        return self.layers(x).mean(0)
