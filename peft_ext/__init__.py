"""Adaptation of a pretrained model: LoRA, DoRA and QLoRA (`adapt.py`, `quantise.py`), merged back by `merge.py`.

`adapt.py` and `quantise.py` never import `recsys`; `recsys.build` calls them when a configuration asks for it.
"""

import logging

# It names kernels that it would fetch as soon as it is imported, by `transformers.Trainer` among others.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
