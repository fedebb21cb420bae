"""Average the weights of checkpoints of one model, which often does better on other data than each of them.

A model that was trained further, averaged with what it started from, keeps what both know (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models").
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from model import load_model, save_checkpoint


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders of the checkpoints, which weigh the same")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    model, *others = [load_model(folder) for folder in options.checkpoints]
    weights = [dict(other.named_parameters()) for other in others]
    for name, own in model.named_parameters():
        own.copy_(torch.stack([own, *(each[name] for each in weights)]).mean(dim=0))
    save_checkpoint(model, options.checkpoints[0], options.output, torch.float32)


if __name__ == "__main__":
    main()
