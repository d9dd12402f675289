import torch
from sklearn import linear_model
from torch import Tensor

from onelook.methods import LogisticRegression
from onelook.tasks import Tasks
from reference.common import preprocessed


def logits(method: LogisticRegression, task: Tasks) -> Tensor:
    """scikit-learn's classifier, as the authors use it, fitted to a smaller tolerance.

    Of two classes it keeps w = w_1 - w_0 alone, whose penalty is |w|^2 / 2 where that of both is |w|^2 / 4, and its
    score is the difference of both.
    """
    support, query = preprocessed(method, task)
    price = 2 * method.C if task.n_way == 2 else method.C
    classifier = linear_model.LogisticRegression(C=price, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    classifier.fit(support.numpy(), task.support_labels[0].numpy())
    scores = torch.from_numpy(classifier.decision_function(query.numpy()))
    return torch.stack([-scores / 2, scores / 2], 1) if task.n_way == 2 else scores
