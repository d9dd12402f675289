"""Matching networks: attention over the labelled examples.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra. Matching Networks for One Shot
Learning. NeurIPS 2016, arXiv:1606.04080.

The labels of the support rows are mixed by the attention that the query pays to the rows (equation 1), a softmax
over cosine similarities (section 2.1.1). With full context embeddings (section 2.1.2 and the appendix) a support row
is embedded by two LSTMs that read the support set in its order, forwards and backwards, and a query by an LSTM that
reads the embedded support set `n_reads` times by attention. This is an inductive method.

Departures from the paper:
* the cosines are multiplied by a learned scale, because a softmax over numbers from -1 to 1 can hardly choose;
* a read attends by the same cosines, where the paper takes inner products, so that the lengths of features, which
  mean little, do not decide how sharply it reads;
* with full context, features first go through a linear map to `lstm_size`, because LSTMs of the size of the features
  take three times as long on a processor, and then to length 1, the order of an LSTM's own state;
* the support rows are read in the order in which they stand.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onelook import ops
from onelook.errors import PositiveFloat, PositiveInt
from onelook.methods.base import Method
from onelook.tasks import Tasks


class MatchingNetworks(Method):
    """Attention of each query over the support rows.

    >>> MatchingNetworks(feature_size=64)(Tasks.random(n_tasks=2, n_way=5)).shape
    torch.Size([2, 15, 5])
    """

    feature_size: PositiveInt
    full_context: bool = False
    """Whether support and query are embedded in the context of the support set."""
    n_reads: PositiveInt = 3
    """K, how often a query's LSTM reads the support set."""
    lstm_size: PositiveInt = 128
    """Size of the embeddings in context."""
    initial_scale: PositiveFloat = 10.0
    """First factor of the cosines; it is learned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ordered_support = self.full_context
        self.scale = nn.Parameter(torch.tensor(float(self.initial_scale)))
        if self.full_context:
            self.projection = nn.Linear(self.feature_size, self.lstm_size, bias=False)
            self.support_lstm = nn.LSTM(self.lstm_size, self.lstm_size, batch_first=True, bidirectional=True)
            self.of_feature = nn.Linear(self.lstm_size, 4 * self.lstm_size)
            self.of_state = nn.Linear(2 * self.lstm_size, 4 * self.lstm_size, bias=False)

    def forward(self, tasks: Tasks) -> Float[Tensor, "T Q K"]:
        """The logarithm of the attention that each class gets in all."""
        support, query = tasks.support, tasks.query
        if self.full_context:
            support = self._support_in_context(ops.normalise(self.projection(support)))
            query = self._query_in_context(ops.normalise(self.projection(query)), support)
        log_attention_TQS = (self.scale * ops.cosine_similarity(query, support)).log_softmax(-1)
        others_TSK = ops.one_hot(tasks.support_labels, tasks.n_way, support.dtype) == 0
        of_class_TQSK = log_attention_TQS.unsqueeze(-1).masked_fill(others_TSK.unsqueeze(1), -torch.inf)
        return of_class_TQSK.logsumexp(2)

    def _support_in_context(self, support: Float[Tensor, "T S H"]) -> Float[Tensor, "T S H"]:
        """g(x_i, S) = forward h_i + backward h_i + g'(x_i), appendix A.2."""
        forward, backward = self.support_lstm(support)[0].chunk(2, -1)
        return support + forward + backward  # type: ignore[no-any-return]

    def _query_in_context(
        self, query: Float[Tensor, "T Q H"], support: Float[Tensor, "T S H"]
    ) -> Float[Tensor, "T Q H"]:
        """f(x, S) = attLSTM(f'(x), g(S), K), equations 3 to 6 of appendix A.1, from a state of zeros."""
        of_feature = self.of_feature(query)  # the same in every read
        state = cell = torch.zeros_like(query)
        for _ in range(self.n_reads):
            attention_TQS = (self.scale * ops.cosine_similarity(state, support)).softmax(-1)  # equation 6
            read = attention_TQS @ support  # equation 5
            gates = of_feature + self.of_state(torch.cat([state, read], -1))  # equation 3
            entry, forget, new, leave = gates.chunk(4, -1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * new.tanh()
            state = leave.sigmoid() * cell.tanh() + query  # equations 3 and 4
        return state
