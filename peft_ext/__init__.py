"""Adaptation of a built model: LoRA and QLoRA (`adapt.py`), and merging them back (`merge.py`).

`adapt.py` never imports `recsys`; `recsys.build` calls it when a configuration asks for it.
"""
