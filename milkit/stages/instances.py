"""What a kept run says of every cell of images, training ones included: its weights applied, nothing rounded.

Run folders keep maps of validation and test images in steps of 1/256, where many cells are equal; and of training
images none. So the weights speak.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from milkit.data.study import Study
from milkit.execute.prepare import scalers_of
from milkit.experiment import Experiment
from milkit.keep.folder import stacked_like
from milkit.keep.run import as_tree, read_members, read_run
from milkit.pixel import CAMEL
from milkit.stages.images import pixels
from milkit.train.state import forward, graph_of
from milkit.types import Images

AT_ONCE = 16
"""Images of a step."""


def instance_logits(
    folder: Path, trained: Experiment, study: Study, rows: Int[np.ndarray, "b"], lattice: int
) -> Float[np.ndarray, "b n n"]:
    """The logit of every cell of some images, by the selected epoch of a run folder's only run.

    Args:
        folder: the run folder.
        trained: its experiment, of one split and seed, with a `CAMEL`; what it trained on says how pixels are scaled.
        study: of the images.
        rows: which of them.
        lattice: cells a side; it need not be that of the training.

    Raises:
        RunFolderError: the run is not finished, or its weights are not those of the model.
    """
    assert isinstance(trained.model, CAMEL)
    assert study.sizes is not None
    model = replace(trained.model, lattice=lattice)
    arrays, members = read_members(read_run(folder))
    params, buffers = stacked_like(model, study.features, 1, members)
    tree = as_tree(arrays, {"params": params, "buffers": buffers}, folder)
    own = jax.tree.map(lambda a: jnp.asarray(a[0]), tree)
    before = trained.data.load(trained.task, trained.unit)
    split = trained.protocol.plan(before, trained.task).splits[0]
    ((shift, inverse),) = scalers_of(model, before, [split], trained.train.standardise)
    height, width = study.sizes.max(0).tolist()
    graph = graph_of(model, study.features, 1, 0, (height, width))

    @jax.jit
    def call(images: Images) -> jax.Array:
        output, _ = forward(graph, own["params"], own["buffers"], images, None, trained.train.precision)
        return output.extras["instance_logits"][..., 0]

    found = []
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE].tolist()
        x = np.zeros((AT_ONCE, height, width, study.features), np.float32)
        mask = np.zeros(x.shape[:3], bool)
        for k, row in enumerate(some):
            image = pixels(study, row).astype(np.float32)
            x[k, : image.shape[0], : image.shape[1]] = image if shift is None else (image - shift) * inverse
            mask[k, : image.shape[0], : image.shape[1]] = True
        found.append(np.asarray(call(Images(jnp.asarray(x), jnp.asarray(mask))))[: len(some)])
    return np.concatenate(found)
