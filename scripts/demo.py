"""Export a tiny checkpoint of random weights and rerank a small conversation with it."""

import json
import lzma
import sys
import tempfile
from pathlib import Path

from memrerank import Memory, Reranker
from memrerank_bench.random_checkpoint import CONFIG_06B, write_random_checkpoint
from memrerank_export.cli import main as memrerank_export

TOKENIZER = Path(__file__).parent.parent / "tests" / "data" / "qwen3_tokenizer.json.xz"

TINY = CONFIG_06B | {
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}

CONVERSATION = Path(__file__).with_name("demo.jsonl")


def main() -> int:
    """Run the demonstration in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, artifact = Path(folder, "tiny-random-checkpoint"), Path(folder, "tiny-random-int8")
        tokenizer = Path(folder, "tokenizer.json")
        tokenizer.write_bytes(lzma.decompress(TOKENIZER.read_bytes()))
        write_random_checkpoint(checkpoint, TINY, tokenizer)
        if code := memrerank_export([str(checkpoint), str(artifact)]):
            return code
        reranker = Reranker.load(artifact)
        memories = [Memory(**json.loads(line)) for line in CONVERSATION.read_text(encoding="utf-8").splitlines()]
        query = "When did she start her new job?"
        ranking = reranker.rerank(query, memories, context=["Tomas: How is Nora doing?"], top_k=5)
    print(f"\n{query}")
    for hit in ranking:
        print(f"  {hit.score:.3f}  {str(hit.document.time)[:10]}  {hit.document.speaker:6} {hit.document.text}")
    print("\nThe weights of this checkpoint are random, so the order means nothing: it shows that the way from a")
    print("checkpoint to scores works here. For scores that mean something, export a trained one (see README.md).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
