"""From a reranker's checkpoint to an artifact that memrerank runs."""
