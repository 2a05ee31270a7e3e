"""`train` as a process of its own: run_train.py DATASET CONFIG OUT [--resume]."""

import sys
from pathlib import Path

import torch

from recsys.config import load_config
from recsys.training import train

torch.set_num_threads(1)
train(Path(sys.argv[1]), load_config(Path(sys.argv[2])), Path(sys.argv[3]), resume="--resume" in sys.argv)
