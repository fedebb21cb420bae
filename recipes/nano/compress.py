"""Write a checkpoint in 16 bits, to keep: python recipes/nano/compress.py CHECKPOINT OUTPUT."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from model import load_model, save_checkpoint


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args(argv)
    save_checkpoint(load_model(options.checkpoint), options.checkpoint, options.output, torch.float16)


if __name__ == "__main__":
    main()
