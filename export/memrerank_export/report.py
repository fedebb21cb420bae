"""What memrerank-export prints for people."""

from __future__ import annotations

from pathlib import Path

from memrerank.manifest import Manifest
from memrerank_export.estimate import Estimate


def export_report(manifest: Manifest, output: Path, seconds: float) -> str:
    """Sizes, the error of the weights and the fidelity of the scores."""
    size = sum(record.size for record in manifest.files.values())
    lines = [
        f"{output}: {manifest.architecture}, {manifest.precision}, {size / 1e6:.1f} MB in {seconds:.0f} s",
        *(f"  {name:16} {record.size / 1e6:10.1f} MB" for name, record in manifest.files.items()),
        f"template: {manifest.source['template']}, {_instruction(manifest)}",
        f"weights: {_weight_errors(manifest)}",
        f"fidelity: {_fidelity(manifest)}",
        f"try it: memrerank rerank QUERY --memories FILE.jsonl --artifact {output}",
    ]
    return "\n".join(lines)


def estimate_report(estimate: Estimate) -> str:
    """The plan layer by layer, and what it takes."""
    width = max(len(layers.name) for layers in estimate.layers)
    lines = [
        f"{estimate.architecture}, {estimate.parameters / 1e6:,.0f} million parameters, template {estimate.template}",
        *(
            f"  {layers.name:{width}} {layers.count:3} x {layers.shape[0]:6} x {layers.shape[1]:5}  {layers.form}"
            for layers in estimate.layers
        ),
        f"{estimate.precision} artifact: {estimate.size / 1e6:,.0f} MB and the tokenizer on disk",
        f"memory: about {estimate.export_memory / 1e9:.1f} GB to write it, {estimate.load_memory / 1e9:.1f} GB to load",
        "Nothing was written (--dry-run).",
    ]
    return "\n".join(lines)


def _instruction(manifest: Manifest) -> str:
    instruction = manifest.template.instruction
    return "without an instruction" if instruction is None else f"with the instruction {instruction!r}"


def _weight_errors(manifest: Manifest) -> str:
    worst = sorted(manifest.plan.items(), key=lambda item: -item[1].error)[:3]
    if not worst or worst[0][1].error == 0:
        return "stored exactly"
    mean = sum(record.error for record in manifest.plan.values()) / len(manifest.plan)
    named = ", ".join(f"{name} {record.error:.2g}" for name, record in worst)
    return f"relative error {mean:.2g} on average over {len(manifest.plan)} matrices; largest {named}"


def _fidelity(manifest: Manifest) -> str:
    found = manifest.fidelity
    if found["reference"] is None:
        return f"null, because {found['reason']}"
    tau = "not defined" if found["kendall_tau"] is None else f"{found['kendall_tau']:.4f}"
    return (
        f"logits differ by at most {found['max_difference']:.4g} and {found['mean_difference']:.4g} on average, "
        f"Kendall's tau {tau} ({found['pairs']} pairs, against {found['reference']})"
    )
