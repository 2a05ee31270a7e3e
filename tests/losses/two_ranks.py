"""Two ranks on gloo: InfoNCE over half of the positions each; they write loss and gradients. ``FOLDER``."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch

from recsys.losses import InfoNCE, LossOutput

HALVES = (slice(0, 5), slice(5, 12))


def inputs() -> tuple[torch.Tensor, ...]:
    """hidden ``[12, 4]``, table ``[9, 4]``, bias ``[9]``, targets ``[12]``; the halves share items."""
    g = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(12, 4, generator=g), torch.randn(9, 4, generator=g)
    targets = torch.tensor([3, 4, 3, 5, 8, 4, 6, 7, 6, 8, 4, 7])
    return hidden.double(), table.double(), torch.randn(9, generator=g).double(), targets


def loss_of(
    hidden: torch.Tensor, table: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor, loss: InfoNCE
) -> LossOutput:
    """The loss over the rows of these targets."""
    row_ids, places = torch.unique(targets, return_inverse=True)
    return loss(hidden, table[row_ids], places, row_ids, bias=bias[row_ids])


def main(rank: int, folder: Path) -> None:
    """Both halves, and then a step in which rank 1 has no position."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    result = {}
    for name, part in (("both", HALVES[rank]), ("empty", slice(0, 5) if rank == 0 else slice(0, 0))):
        hidden, table, bias, targets = inputs()
        leaves = [x.requires_grad_() for x in (hidden, table, bias)]
        out = loss_of(hidden[part], table, bias, targets[part], InfoNCE(max_cosine=0.9))
        out.sum.backward()
        result[name] = [out.sum.detach(), *(x.grad for x in leaves)]
    alone = loss_of(*(x[HALVES[rank]] if len(x) == 12 else x for x in inputs()), InfoNCE(cross_rank=False))
    torch.save(result | {"alone": [alone.sum]}, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # PyTorch is loaded once for both; nothing has been computed yet, so a fork is safe.
    child = os.fork()
    if child == 0:
        main(1, Path(sys.argv[1]))
        os._exit(0)
    main(0, Path(sys.argv[1]))
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
