import torch
from torch import Tensor

from onelook.methods import MatchingNetworks
from onelook.tasks import Tasks
from reference.common import unit


def logits(method: MatchingNetworks, task: Tasks) -> Tensor:
    """Vinyals et al., equation 1: the attention of the query to the rows of a class, added up."""
    support, queries = list(task.support[0]), list(task.query[0])
    if method.full_context:
        own = [unit(method.projection.weight @ row) for row in support]
        support = support_in_context(method, own)
        queries = [query_in_context(method, unit(method.projection.weight @ row), support) for row in queries]
    scores = []
    for query in queries:
        attention = attention_to(method, query, support)
        for label in range(task.n_way):
            members = [a for a, of in zip(attention, task.support_labels[0], strict=True) if int(of) == label]
            scores.append(torch.stack(members).sum().log())
    return torch.stack(scores).reshape(-1, task.n_way)


def attention_to(method: MatchingNetworks, vector: Tensor, support: list[Tensor]) -> Tensor:
    """Section 2.1.1: the softmax over the cosines to the support rows."""
    powers = torch.stack([(method.scale * (unit(vector) * unit(row)).sum()).exp() for row in support])
    return powers / powers.sum()


def support_in_context(method: MatchingNetworks, own: list[Tensor]) -> list[Tensor]:
    """Appendix A.2: what an LSTM that reads the rows from the first says, one that reads from the last, and the row."""
    forwards = states(method, own, "")
    backwards = states(method, own[::-1], "_reverse")[::-1]
    return [f + b + row for f, b, row in zip(forwards, backwards, own, strict=True)]


def states(method: MatchingNetworks, rows: list[Tensor], which: str) -> list[Tensor]:
    parameter = dict(method.support_lstm.named_parameters())
    w, u = parameter[f"weight_ih_l0{which}"], parameter[f"weight_hh_l0{which}"]
    bias = parameter[f"bias_ih_l0{which}"] + parameter[f"bias_hh_l0{which}"]
    state = cell = torch.zeros_like(rows[0])
    out = []
    for row in rows:
        state, cell = lstm(w @ row + u @ state + bias, cell)
        out.append(state)
    return out


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hochreiter & Schmidhuber with a forget gate; gates in the order in, forget, new, out."""
    size = len(cell)
    entry, forget, leave = (1 / (1 + (-gates[i * size : (i + 1) * size]).exp()) for i in (0, 1, 3))
    cell = forget * cell + entry * gates[2 * size : 3 * size].tanh()
    return leave * cell.tanh(), cell


def query_in_context(method: MatchingNetworks, own: Tensor, support: list[Tensor]) -> Tensor:
    """Equations 3 to 6."""
    state = cell = torch.zeros_like(own)
    for _ in range(method.n_reads):
        attention = attention_to(method, state, support)
        read = torch.stack([a * row for a, row in zip(attention, support, strict=True)]).sum(0)
        gates = method.of_feature.weight @ own + method.of_feature.bias
        gates = gates + method.of_state.weight @ torch.cat([state, read])
        out, cell = lstm(gates, cell)
        state = out + own
    return state
