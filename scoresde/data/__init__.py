"""Data in model units: containers, the embedded digits, toys, and loaders for files."""

from scoresde.columns import TableScaling
from scoresde.data.arrays import npy, npz
from scoresde.data.base import Data, LazyData
from scoresde.data.cifar import cifar, read_pickle
from scoresde.data.dataset import from_dataset
from scoresde.data.digits import digits
from scoresde.data.files import array_folder
from scoresde.data.idx import fashion_mnist, idx, idx_folder, read_idx
from scoresde.data.images import image_folder
from scoresde.data.layouts import LAYOUTS
from scoresde.data.load import NAMED, load_data
from scoresde.data.partition import hold_out, moments, split, summarise
from scoresde.data.rows import ArrayRows, Rows, ScaledRows
from scoresde.data.samples import samples
from scoresde.data.scaling import Moments, unit_fault
from scoresde.data.tables import csv_table, parquet_table, table
from scoresde.data.toys import (
    TOYS,
    MixtureParameters,
    checkerboard,
    eight_gaussians,
    eight_gaussians_parameters,
    moons,
    swiss_roll,
    toy,
)
from scoresde.data.wav import wav, write_wav
from scoresde.summary import ConditionSummary, DataSummary, Scaling

__all__ = [
    "LAYOUTS",
    "NAMED",
    "TOYS",
    "ArrayRows",
    "ConditionSummary",
    "Data",
    "DataSummary",
    "LazyData",
    "MixtureParameters",
    "Moments",
    "Rows",
    "ScaledRows",
    "TableScaling",
    "Scaling",
    "checkerboard",
    "array_folder",
    "cifar",
    "csv_table",
    "digits",
    "eight_gaussians",
    "eight_gaussians_parameters",
    "fashion_mnist",
    "from_dataset",
    "hold_out",
    "idx",
    "idx_folder",
    "image_folder",
    "load_data",
    "moments",
    "moons",
    "npy",
    "npz",
    "parquet_table",
    "read_idx",
    "read_pickle",
    "samples",
    "split",
    "summarise",
    "swiss_roll",
    "table",
    "toy",
    "unit_fault",
    "wav",
    "write_wav",
]
