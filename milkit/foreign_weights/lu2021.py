"""CLAM: the authors' code, MIL-Lab, torchmil. Without instance classifiers the bag's loss is all there is."""

from functools import partial

from milkit.foreign_weights.ilse2018 import attention_of, encoder
from milkit.foreign_weights.names import Found, Names, Shapes
from milkit.models import CLAMMB, CLAMSB


def _authors(shapes: Shapes, branched: bool) -> Found:
    # dropout has a place of its own after the first layer, or not (the first release)
    place = max(2, shapes.count("attention_net.#.attention_a.0.weight") - 1, _last(shapes))
    attention, gated = attention_of(shapes, f"attention_net.{place}")
    hidden, *_, score = attention
    classes = shapes.size(f"{score}.weight") if branched else shapes.size("classifiers.weight")
    heads = {f"classifiers.{i}": f"classifiers/{i}" for i in range(classes)}
    heads = heads if branched else {"classifiers": "classifiers/0"}
    instances = _instances(shapes, "instance_classifiers.#", classes)
    config = (CLAMMB if branched else CLAMSB)(
        encoder=(shapes.size("attention_net.0.weight"),), attention=shapes.size(f"{hidden}.weight"), gated=gated,
        bag_weight=_bag_weight(instances),
    )  # fmt: skip
    names = Names({"attention_net.0": "encoder/layers/0", **attention, **heads, **instances}, {}, (f"{score}.bias",))
    return Found(config, shapes.size("attention_net.0.weight", 1), classes, names)


single = partial(_authors, branched=False)
branches = partial(_authors, branched=True)


def mil_lab(shapes: Shapes) -> Found:
    """A single branch; ABMIL's names and the instance classifiers'."""
    linear, widths, in_features = encoder(shapes)
    attention, gated = attention_of(shapes, "global_attn")
    hidden, *_, score = attention
    classes = shapes.size("classifier.weight")
    instances = _instances(shapes, "instance_classifiers.#", classes)
    config = CLAMSB(
        encoder=widths, attention=shapes.size(f"{hidden}.weight"), gated=gated, bag_weight=_bag_weight(instances)
    )
    linear = {**linear, **attention, "classifier": "classifiers/0", **instances}
    return Found(config, in_features, classes, Names(linear, unused=(f"{score}.bias",)))


def torchmil(shapes: Shapes) -> Found:
    """A single branch without an encoder; always gated or not, as the file has it."""
    gated = "pool.fc_gated.module.weight" in shapes
    linear = {"pool.fc1.module": "pool/tanh", "pool.fc2": "pool/score", "classifier.module": "classifiers/0"}
    linear |= {"pool.fc_gated.module": "pool/gate"} if gated else {}
    classes = shapes.size("classifier.module.weight")
    instances = _instances(shapes, "inst_classifiers.#.module", classes)
    width, in_features = shapes.size("pool.fc1.module.weight"), shapes.size("pool.fc1.module.weight", 1)
    config = CLAMSB(
        encoder=(), attention=width, gated=gated, dropout=0.0, k=10, subtyping=True, bag_weight=_bag_weight(instances)
    )
    return Found(config, in_features, classes, Names({**linear, **instances}))


def _instances(shapes: Shapes, theirs: str, classes: int) -> dict[str, str]:
    """One a class, and so two of a single logit; or none at all."""
    count = max(classes, 2) if shapes.count(f"{theirs}.weight") else 0
    return {theirs.replace("#", str(i)): f"instance_classifiers/{i}" for i in range(count)}


def _bag_weight(instances: dict[str, str]) -> float:
    return CLAMSB.bag_weight if instances else 1.0


def _last(shapes: Shapes) -> int:
    return shapes.count("attention_net.#.module.0.weight") - 1
