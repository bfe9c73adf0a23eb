"""Plans as rows of tables, pairs of two str."""

from kerasllm.planning.words import duration, gigabytes, percent_more


def training_rows(plan):
    """Rows of what a `Plan` says of parameters, arithmetic, time, energy, money and disk."""
    trained = "" if plan.trained_parameters == plan.parameters else f", {plan.trained_parameters:,} of them trained"
    if plan.training.adapter_rank:
        trained = f", and {plan.trained_parameters:,} of adapters, which are trained"
    active = plan.training.config.num_parameters(of_tokens=1)
    if active < plan.training.config.num_parameters():
        trained = f", of which a token reads {active:,}{trained}"
    yield "parameters", f"{plan.parameters:,}{trained}"
    yield "a step", f"{plan.tokens_per_step:,} tokens, {plan.flops_per_step / 1e12:,.2f} TFLOPs"
    yield "computed in", plan.training.precision
    yield "device", _device(plan.device)
    if plan.seconds_per_step is None:
        known = "kerasllm plan --calibrate measures" if plan.device.is_this else "its table has no FLOP/s of that dtype"
        yield "time", f"not known: {known}"
    else:
        yield "time of a step", f"{duration(plan.seconds_per_step)}, {plan.tokens_per_second:,.0f} tokens/s"
    if plan.tokens is not None:
        yield "tokens in all", f"{plan.tokens:,}, {plan.tokens / plan.parameters:,.1f} for each parameter"
    if plan.seconds is not None:
        yield "time in all", f"{duration(plan.seconds)} for {plan.steps:,} steps"
    if plan.energy_kwh is not None:
        yield "energy", f"{plan.energy_kwh:,.2f} kWh, at {plan.device.watts:,.0f} W"
    if plan.usd is not None:
        yield "money", f"{plan.usd:,.2f} USD, at {plan.device.usd_per_hour:,.2f} an hour"
    yield "on disk", f"{gigabytes(plan.disk_bytes)}, and {gigabytes(plan.checkpoint_bytes)} for each checkpoint"


def memory_rows(plan):
    """Rows of the memory of a `Plan` by part, and of what there is."""
    for name, number in plan.memory_bytes.items():
        yield name, gigabytes(number)
    if plan.device.memory_bytes is not None:
        yield "what there is", f"{gigabytes(plan.device.memory_bytes)}: {'it fits' if plan.fits else 'it does not fit'}"


def remedy_rows(found):
    """Rows of `Remedy`s."""
    for remedy in found:
        yield remedy.flags, f"{gigabytes(remedy.plan.memory_bytes['peak'])}, {percent_more(remedy.cost)}"
    if not found:
        yield "nothing that leaves what is learned as it is", "a smaller model, context or batch"


def budget_rows(plan, hours=None, usd=None):
    """Rows of what a budget is enough for."""
    price = plan.device.usd_per_hour
    if usd is not None:
        if price is None:
            yield f"{usd:,.2f} USD", "the price is not known: --devices takes a file with usd_per_hour"
        else:
            yield f"{usd:,.2f} USD", f"{usd / price:,.1f} h{_tokens_in(plan, 3600 * usd / price)}"
    if hours is not None:
        yield f"{hours:,g} h", _tokens_in(plan, 3600 * hours).removeprefix(", ") or "the speed is not known"


def generation_rows(plan):
    """Rows of a `GenerationPlan`."""
    yield "weights", gigabytes(plan.weight_bytes)
    yield "cache", f"{gigabytes(plan.cache_bytes)}, {plan.cache_bytes_per_token / 1e3:,.1f} kB for each token"
    if plan.tokens_per_second is not None:
        yield "speed", f"{plan.tokens_per_second:,.0f} tokens/s"
        yield "first token, behind a full prompt", duration(plan.first_token_seconds)


def _device(device):
    if device.is_this:
        return f"this, measured {device.calibration.measured}" if device.calibration.measured else "this"
    return f"{device.name}, of whose peak {device.share_of_peak:.0%} is taken to be reached"


def _tokens_in(plan, seconds):
    if plan.tokens_per_second is None:
        return ""
    tokens = seconds * plan.tokens_per_second
    return f", {tokens / 1e6:,.0f}M tokens, {tokens / plan.parameters:,.1f} for each parameter"
