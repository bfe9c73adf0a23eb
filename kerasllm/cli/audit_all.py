"""`kerasllm audit RUN`: all that a model's files allow to say and to measure, as a page, JSON and a model card."""

import shlex
from pathlib import Path

from kerasllm.cli import audit_bias, audit_memory, audit_safety
from kerasllm.cli.startup import start_keras
from kerasllm.files import check_new_folder, new_folder, read_json, write_json
from kerasllm.settings import RECORD

PAGE, FIGURES, CARD = "audit.html", "audit.json", "README.md"


def run(arguments):
    folder = Path(arguments.run)
    tests = audit_bias.asked_tests(arguments)
    audit_memory.check(arguments)
    has_prompts = arguments.prompts or arguments.harmless
    filter = audit_safety.check(arguments) if has_prompts else None
    if arguments.out is None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder in which the report could be: --out names one for it.")
    out = Path(arguments.out or folder / "audit")
    check_new_folder(out)
    start_keras()
    import kerasllm
    from kerasllm import audits, report

    model, tokenizer = kerasllm.load(arguments.run)
    parts = [audits.of_model(model, tokenizer)]
    if (folder / RECORD).is_file():
        parts += audits.of_record(read_json(folder / RECORD))
    if arguments.text:
        report.stage("Measuring perplexity")
        perplexity = audit_bias.perplexity(model, tokenizer, arguments.text, arguments.run)
        parts.append(audits.of_text(perplexity, arguments.text))
    if tests:
        report.stage(f"Measuring bias: {', '.join(tests)}")
        parts.append(audits.of_bias(audit_bias.measure(model, tokenizer, tests, arguments)))
    if has_prompts:
        report.stage("Measuring harm and refusals")
        parts.append(audits.of_safety(audit_safety.measure(model, tokenizer, arguments, filter)))
    is_causal = isinstance(model, kerasllm.models.CausalLM)
    if is_causal and (folder / audit_memory.TOKENS / "train").is_dir():
        report.stage("Measuring memory of the training text")
        parts.append(audits.of_memory(audit_memory.measure(model, tokenizer, arguments)))
    missing = _missing({part.name for part in parts}, arguments.run, is_causal)
    title, base = folder.resolve().name, getattr(model, "base", None)
    tuned_from = base.id if base is not None and parts[0].figures["base"] else None
    with new_folder(out) as draft:
        (draft / PAGE).write_text(audits.page(title, parts, missing), encoding="utf-8")
        write_json(draft / FIGURES, {part.name: {**part.figures, "limits": part.limits} for part in parts})
        (draft / CARD).write_text(audits.model_card(title, parts, missing, tuned_from), encoding="utf-8")
    for part in parts[1:]:
        report.table(part.title, part.rows)
    report.stage(
        f"{out / PAGE} shows it; {out / CARD} is a model card, which goes with the model to Hugging Face's format"
    )


def _missing(names, run, is_causal):
    """What was not measured, and the flags that would have had it measured: pairs of str."""
    command = f"kerasllm audit {shlex.quote(str(run))}"
    wanted = [("bias", "bias", f"{command} --crows-pairs FILE --templates FILE --out OUT")]
    if is_causal:
        harm = f"{command} --prompts FILE --classifier FOLDER --harmless FILE --out OUT"
        memory = "kerasllm train --data TEXT --canaries 1 4 16 64 --out RUN"
        wanted += [("safety", "harm and refusals", harm), ("memory", "memory of the training text", memory)]
    return [(what, command) for name, what, command in wanted if name not in names]
