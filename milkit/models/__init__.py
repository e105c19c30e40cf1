"""The models, one paper a file.

`Model` is the only list: `typing.get_args(Model)` gives the config classes, from which the allow-list of
saved experiments and the tests' parametrisation come. A new model is one file and one name here.
"""

from milkit.models.bag_of_words import BagOfWords
from milkit.models.bag_statistics import BagStatistics
from milkit.models.blei2003 import TopicMixture
from milkit.models.campanella2019 import TopTiles
from milkit.models.castromacias2024 import SmABMIL, SmTransformerABMIL
from milkit.models.castromacias2025 import ProbSmoothABMIL
from milkit.models.chen2021 import PatchGCN
from milkit.models.courtiol2018 import Chowder
from milkit.models.fillioux2023 import S4MIL
from milkit.models.fourkioti2024 import CAMIL
from milkit.models.ilse2018 import ABMIL
from milkit.models.ilse2018_images import PatchCNN
from milkit.models.jaegle2021 import Perceiver
from milkit.models.javed2022 import AdditiveMIL
from milkit.models.li2018 import DeepGraphSurv
from milkit.models.li2021 import DSMIL
from milkit.models.li2024 import WiKG
from milkit.models.lin2023 import IBMIL
from milkit.models.lu2021 import CLAMMB, CLAMSB
from milkit.models.mohammed2020 import PSDeVCEM
from milkit.models.pooling import EmbeddingPooling, InstancePooling
from milkit.models.ren2023 import IIBMIL
from milkit.models.rymarczyk2021 import SAABMIL
from milkit.models.schaumberg2020 import SumOfPatches
from milkit.models.shao2021 import TransMIL
from milkit.models.shi2020 import LossAttention
from milkit.models.spatial_sparse import SpatialSparse
from milkit.models.tang2023 import MHIM
from milkit.models.tang2024 import RRT
from milkit.models.transformer_abmil import TransformerABMIL
from milkit.models.wagner2023 import Transformer
from milkit.models.wang2018 import BagNet, BagNetDS, BagNetRC, InstanceNet
from milkit.models.wu2023 import SmoothABMIL
from milkit.models.xiang2023 import ILRA
from milkit.models.yang2024 import MambaMIL
from milkit.models.yao2020 import DeepAttnMISL
from milkit.models.zaheer2017 import DeepSets
from milkit.models.zhang2022 import DTFD
from milkit.models.zhang2022_mcvit import MCViT
from milkit.models.zhang2024 import ACMIL, QueryPooling
from milkit.models.zhao2022 import SETMIL
from milkit.models.zheng2022 import GTP

Model = (
    ABMIL
    | InstancePooling
    | EmbeddingPooling
    | InstanceNet
    | BagNet
    | BagNetDS
    | BagNetRC
    | BagStatistics
    | CLAMSB
    | CLAMMB
    | DSMIL
    | TransMIL
    | DTFD
    | ACMIL
    | ILRA
    | Chowder
    | LossAttention
    | QueryPooling
    | AdditiveMIL
    | S4MIL
    | SAABMIL
    | RRT
    | DeepSets
    | SmABMIL
    | WiKG
    | IBMIL
    | PatchCNN
    | Transformer
    | PatchGCN
    | SmTransformerABMIL
    | SETMIL
    | MambaMIL
    | DeepGraphSurv
    | TransformerABMIL
    | MHIM
    | DeepAttnMISL
    | Perceiver
    | SmoothABMIL
    | ProbSmoothABMIL
    | SumOfPatches
    | GTP
    | PSDeVCEM
    | IIBMIL
    | BagOfWords
    | CAMIL
    | SpatialSparse
    | TopicMixture
    | TopTiles
    | MCViT
)

__all__ = [
    "ABMIL",
    "ACMIL",
    "CAMIL",
    "CLAMMB",
    "CLAMSB",
    "DSMIL",
    "DTFD",
    "GTP",
    "IBMIL",
    "IIBMIL",
    "ILRA",
    "MHIM",
    "RRT",
    "S4MIL",
    "SAABMIL",
    "SETMIL",
    "AdditiveMIL",
    "BagNet",
    "BagNetDS",
    "BagNetRC",
    "BagOfWords",
    "BagStatistics",
    "Chowder",
    "DeepAttnMISL",
    "DeepGraphSurv",
    "DeepSets",
    "EmbeddingPooling",
    "InstanceNet",
    "InstancePooling",
    "LossAttention",
    "MCViT",
    "MambaMIL",
    "Model",
    "PSDeVCEM",
    "PatchCNN",
    "PatchGCN",
    "Perceiver",
    "ProbSmoothABMIL",
    "QueryPooling",
    "SmABMIL",
    "SmTransformerABMIL",
    "SmoothABMIL",
    "SpatialSparse",
    "SumOfPatches",
    "TopTiles",
    "TopicMixture",
    "TransMIL",
    "Transformer",
    "TransformerABMIL",
    "WiKG",
]
