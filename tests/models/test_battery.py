"""Every model obeys the contract battery: as it comes or narrower, and each option that takes another path."""

from typing import get_args

import jax
import pytest

from milkit.models import (
    ABMIL,
    ACMIL,
    CAMIL,
    CLAMMB,
    CLAMSB,
    DSMIL,
    DTFD,
    GTP,
    IBMIL,
    IIBMIL,
    ILRA,
    MHIM,
    RRT,
    S4MIL,
    SAABMIL,
    SETMIL,
    AdditiveMIL,
    BagNet,
    BagNetDS,
    BagOfWords,
    BagStatistics,
    Chowder,
    DeepAttnMISL,
    DeepGraphSurv,
    DeepSets,
    EmbeddingPooling,
    InstanceNet,
    InstancePooling,
    LossAttention,
    MambaMIL,
    MCViT,
    Model,
    PatchCNN,
    PatchGCN,
    Perceiver,
    ProbSmoothABMIL,
    PSDeVCEM,
    QueryPooling,
    SmABMIL,
    SmoothABMIL,
    SmTransformerABMIL,
    SpatialSparse,
    SumOfPatches,
    TopicMixture,
    TopTiles,
    Transformer,
    TransformerABMIL,
    TransMIL,
    WiKG,
)
from milkit.testing.model_battery import CHECKS, check_all

NARROW = (16, 8)
OTHER_POOLING = [
    InstancePooling("mean", encoder=()),
    InstancePooling("lse", encoder=NARROW),
    InstancePooling("gm", encoder=NARROW),
    InstancePooling("topk", encoder=NARROW, k=3),
    InstancePooling("topk", encoder=NARROW, fraction=0.4),
    EmbeddingPooling("max", encoder=NARROW),
    EmbeddingPooling("lse", encoder=NARROW),
    EmbeddingPooling("gm", encoder=NARROW),
    EmbeddingPooling("topk", encoder=NARROW, fraction=0.4),
    InstanceNet(NARROW, "mean", dropout=0.0),
    InstanceNet(NARROW, "lse", dropout=0.0),
    BagNet(NARROW, "lse", dropout=0.0),
    BagStatistics(("min", "sd")),
]
OTHER_PARAMETERS = [
    ABMIL(encoder=(), attention=8, gated=False, heads=3),
    ABMIL(encoder=NARROW, attention=8, dropout=0.25),
    ABMIL(encoder=NARROW, attention=8, head=(8,), dropout=0.25),
    ABMIL(encoder=NARROW, attention=8, covariates="late"),
    ABMIL(encoder=NARROW, attention=8, covariates="concatenate", fusion_layers=(8,), sets=(4, 2)),
    EmbeddingPooling(encoder=(), head=(8,), dropout=0.25),
    BagNetDS(NARROW, "mean", average="logits"),
    CLAMMB(NARROW, 8, dropout=0.0, k=3, instance_loss="cross_entropy", subtyping=True),
    CLAMSB(NARROW, 8, gated=False, dropout=0.0, bag_weight=1.0),
    DSMIL(NARROW, query=8, query_layers=1, values=8, dropout=0.25, compat="authors"),
    PatchGCN(width=8, attention=8, compat="torchmil"),
    GTP(width=8, convolution="gat", clusters=4, layers=1, heads=2),
    DeepAttnMISL(2, False, (8,), (8,), 8, True, (8,), 0.25, "all"),
    BagOfWords(8, "trained", head=(8,)),
    BagOfWords(8, "kmeans", "vlad"),
    BagOfWords(8, "trained", "vlad"),
    DTFD("MaxMinS", pseudo_bags=3, selected=2, width=16, residual_blocks=1, attention=8, dropout=0.1),
    Transformer(width=16, heads=2, mlp=8, pooling="mean", alibi="learned", dropout=0.1, at_once=20),
    MambaMIL("bimamba", layers=2, width=16, states=4, attention=8, activation="relu"),
    MambaMIL("srmamba", rate=4, layers=1, width=16, states=4, attention=8, compat="authors", at_once=1),
    PSDeVCEM(width=16, attention=8, head=8, supervision="cosine", dropout=0.25),
    SmABMIL("late", "exact", encoder=(8,), attention=8),
    SpatialSparse("topk", 2, 0.0, selector=8, encoder=(8,), attention=8, dropout=0.25),
    RRT(
        width=16,
        heads=2,
        regions=2,
        kernel=3,
        cross_regions=2,
        cross_heads=1,
        representatives=1,
        attention=8,
        layers=2,
        feed_forward=True,
        shortcut=True,
        cross_mlp=True,
        positions="ppeg",
        gated=True,
    ),
    MHIM("dsmil", width=16, attention=8, hard_of=0.5, low=0.2, merged=0),
    MHIM(
        "selfattention",
        width=16,
        heads=2,
        landmarks=4,
        kernel=5,
        merged=2,
        merge_heads=2,
        merge_head_width=8,
        score="attention",
    ),
]


# Models that are wide by default, narrow: compiling and fitting them is what takes time.
NARROWED = {
    CLAMMB: CLAMMB(encoder=(16,), attention=8, k=3),
    CLAMSB: CLAMSB(encoder=(16,), attention=8, k=3),
    DSMIL: DSMIL(query=8),
    TransMIL: TransMIL(width=16, heads=2, landmarks=4, residual=5),
    DTFD: DTFD(width=16, attention=8, pseudo_bags=3),
    ACMIL: ACMIL(branches=2, masked=3, width=16, attention=8),
    ILRA: ILRA(width=16, heads=2),
    Chowder: Chowder(top=3, bottom=2, head=(8,)),
    LossAttention: LossAttention(width=16),
    QueryPooling: QueryPooling(width=16, heads=2),
    AdditiveMIL: AdditiveMIL((8,), (8,)),
    SAABMIL: SAABMIL(encoder=(16,), query=4, attention=8),
    S4MIL: S4MIL(width=16, states=4),
    DeepSets: DeepSets(encoder=(16,), head=(8,)),
    SmABMIL: SmABMIL(encoder=(8,), attention=8, steps=4, dropout=0.25),
    WiKG: WiKG(width=16, k=3),
    IBMIL: IBMIL(3, joint=4, attention=8),
    RRT: RRT(width=16, heads=2, regions=2, kernel=3, cross_regions=2, cross_heads=2, representatives=2, attention=8),
    PatchCNN: PatchCNN(
        ABMIL((), 8), channels=3, filters=(4,), kernels=(3,), hidden=(8,), dropout=0.2, turn=True, restain=0.1
    ),
    PatchGCN: PatchGCN(width=8),
    SmTransformerABMIL: SmTransformerABMIL(encoder=(8,), attention=8, steps=3, heads=2, width=16, dropout=0.1),
    Transformer: Transformer(width=16, heads=2, mlp=8),
    SETMIL: SETMIL(width=8, windows=(3, 5), branch=8, layers=2, heads=2),
    MambaMIL: MambaMIL(rate=2, layers=1, width=16, states=4, attention=8),
    DeepGraphSurv: DeepGraphSurv(width=8, attention=8, order=3),
    TransformerABMIL: TransformerABMIL(width=16, heads=2, mlp=8, attention=8),
    DeepAttnMISL: DeepAttnMISL(clusters=3, encoder=(16,), attention=8, head=(8,)),
    Perceiver: Perceiver(width=16, latents=3, cross_heads=2, heads=2, mlp=8),
    SmoothABMIL: SmoothABMIL(encoder=(8,), attention=4),
    ProbSmoothABMIL: ProbSmoothABMIL(3, 4, encoder=(8,), attention=4, dropout=0.25),
    SumOfPatches: SumOfPatches(patches=4, width=16),
    GTP: GTP(width=8, clusters=4, layers=1, heads=2),
    PSDeVCEM: PSDeVCEM(width=16, blocks=1, attention=8, head=8),
    IIBMIL: IIBMIL(width=8, stages=1, hidden=8, questions=2, layers=1, heads=2),
    MHIM: MHIM(width=16, attention=8, merged=2, merge_heads=2, merge_head_width=8),
    BagOfWords: BagOfWords(words=16),
    CAMIL: CAMIL(width=16, heads=2, landmarks=4, attention=8),
    SpatialSparse: SpatialSparse(encoder=(8,), selector=8, attention=8),
    TopicMixture: TopicMixture(topics=6, words=16, rounds=5),
    TopTiles: TopTiles(k=3, encoder=(8,), dropout=0.25),
    MCViT: MCViT(sets=(2, 1, 3), width=16, heads=2, classes=3, layers=1, mlp=8),
}


@pytest.fixture
def quick_compilation():
    """XLA without its costly passes: these tests compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


QUICK = {"ABMIL", "BagNet", "BagStatistics", "EmbeddingPooling", "InstancePooling"}
"""Whose battery is among the fast tests; the others compile for longer, and each has tests of its own beside."""


@pytest.mark.parametrize(
    "kind", [k if k.__name__ in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in get_args(Model)]
)
def test_every_model_obeys_every_contract(kind):
    check_all(
        NARROWED.get(kind) or kind(), in_features=48 if kind is PatchCNN else 6, out_features=1
    )  # 4 x 4 x 3 pixels


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("config", OTHER_POOLING, ids=repr)
def test_every_pooling_honours_the_mask(config):
    for name in ("config", "shapes", "padding", "permutation", "small_and_empty", "bfloat16"):
        CHECKS[name](config, 6, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("config", OTHER_PARAMETERS, ids=repr)
def test_every_set_of_parameters_learns(config):
    for name in ("shapes", "padding", "attention", "gradients", "fits"):
        CHECKS[name](config, 6, 3)
