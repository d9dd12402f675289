import torch
from torch import Tensor
from torch.nn import functional

from onelook.methods import TransductiveFineTuning
from onelook.tasks import Tasks
from reference.common import class_mean, preprocessed, unit


def logits(method: TransductiveFineTuning, task: Tasks) -> Tensor:
    """Equations 5 and 6, by autograd and the optimiser of torch."""
    support, query = preprocessed(method, task)
    with torch.inference_mode(False), torch.enable_grad():
        support, query, labels = (x.clone().detach() for x in (support, query, task.support_labels[0]))
        head = torch.nn.Linear(support.shape[1], task.n_way, dtype=support.dtype)
        with torch.no_grad():
            for k in range(task.n_way):
                head.weight[k] = unit(class_mean(support, labels, k))
                head.bias[k] = 0
        optimiser = torch.optim.Adam(head.parameters(), method.step_size)
        for _ in range(method.n_steps):
            loss = functional.cross_entropy(method.scale * head(support), labels)
            for row in query:
                share = torch.softmax(method.scale * head(row), 0)
                loss = loss + method.entropy_weight * torch.special.entr(share).sum() / len(query)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return (method.scale * head(query)).detach()
