"""The errors of the loss and of the gradients, at the end of what `layer_errors` compares.

The loss is that of `training/loss.py`, or of the learner's. Gradients are compared for the whole
run: a wrong backward pass of one layer also changes the gradients of all layers before it, so the
first wrong one in the order of the backward pass names it.

What this leaves out: gradients of activations.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lm_course.model_checks.layer_errors import LayerError, Reference, relative_error
from lm_course.model_checks.paired_modules import MODEL
from lm_course.model_checks.recorded_layers import OUTPUT
from transformer_lm.language_model import TransformerLM
from transformer_lm.weights.weight_layout import Source, to_our_layout

LOGITS = (OUTPUT, MODEL)


def next_tokens(token_ids: Tensor) -> Tensor:
    """Return targets [batch, seq]: the next token, and the first one for the last position."""
    return token_ids.roll(-1, dims=1)


def mean_loss(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return PyTorch's mean cross-entropy, in float32 or wider."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return nn.functional.cross_entropy(wide.flatten(0, 1), next_tokens(token_ids).flatten())


def loss_error(ours: TransformerLM, reference: Reference) -> LayerError | None:
    """Return the error of the loss; None if the learner's loss is still the stub."""
    from training.loss import cross_entropy

    token_ids = reference.token_ids
    device = next(ours.parameters()).device
    targets = next_tokens(token_ids).to(device)
    given = reference.values[LOGITS]
    try:
        with torch.no_grad():
            here = cross_entropy(given.to(device), targets)
            whole = cross_entropy(ours(token_ids.to(device)), targets)
    except NotImplementedError:
        return None
    exact = mean_loss(given.double(), token_ids)
    exact_whole = mean_loss(reference.exact_whole[LOGITS].double(), token_ids)
    theirs = mean_loss(given, token_ids)
    own, own_whole = (relative_error(theirs, loss) for loss in (exact, exact_whole))
    return LayerError(
        name="loss",
        kind=OUTPUT,
        scale=exact.item(),
        here=relative_error(here, exact),
        theirs=own,
        tolerance=reference.tolerance(own),
        whole=relative_error(whole, exact_whole),
        whole_tolerance=reference.tolerance(own_whole, whole=True),
    )


def gradient_errors(
    ours: TransformerLM, reference: Reference, sources: Mapping[str, Source]
) -> list[LayerError]:
    """Return the errors of the gradient of each parameter, in the order of the backward pass.

    Args:
        ours: the model to check, on any device.
        reference: see Reference.
        sources: our parameter's name -> its source.
    """
    expected = _our_gradients(reference.wide, reference, sources)
    rounded = _our_gradients(reference.typed, reference, sources)
    found = _gradients(ours, reference.token_ids)
    computed = [name for kind, name in reference.values if kind == OUTPUT]
    place = {name: number for number, name in enumerate(computed)}
    module = {name: name.rpartition(".")[0] for name in sources}
    order = sorted(sources, key=lambda name: -place.get(module[name], len(place)))
    errors = []
    for name in order:
        theirs = relative_error(rounded[name], expected[name])
        error = relative_error(found.get(name), expected[name])
        limit = reference.tolerance(theirs, whole=True)
        scale = expected[name].abs().max().item()
        errors.append(LayerError(name, OUTPUT, scale, error, theirs, limit, error, limit))
    return errors


def _gradients(model: nn.Module, token_ids: Tensor) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    ids = token_ids.to(device)
    model.zero_grad()
    output = model(ids)
    mean_loss(getattr(output, "logits", output), ids).backward()
    named = model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def _our_gradients(
    model: nn.Module, reference: Reference, sources: Mapping[str, Source]
) -> dict[str, Tensor]:
    """Return the gradients of a model of `transformers`, by our names and in float64."""
    theirs, head_dim = _gradients(model, reference.token_ids), reference.config.head_dim
    return {
        ours: to_our_layout(theirs[source.name], source, head_dim).double()
        for ours, source in sources.items()
    }
