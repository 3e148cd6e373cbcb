"""A plain PyTorch script: data-parallel training of a small network, as any tutorial writes it.

    quarterdeck submit --ranks 4 -- python ddp.py

Nothing here knows of the platform: RANK, WORLD_SIZE and MASTER_ADDR are set as torchrun sets them.
"""

import os

import torch
import torch.distributed as dist
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(10, 10)
        self.output = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(x)))


def train(rank: int, device: torch.device) -> torch.Tensor:
    """The sum of the trained weights, which is the same on all ranks."""
    torch.manual_seed(rank)
    model = DistributedDataParallel(Net().to(device))
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    inputs, labels = torch.randn(20, 10, device=device), torch.randn(20, 5, device=device)
    for step in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), labels)
        loss.backward()
        optimizer.step()
        if rank == 0 and step % 5 == 0:
            print(f"step {step} loss {loss.item():.4f}")
    return torch.cat([one.detach().flatten() for one in model.parameters()]).sum()


def main() -> None:
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank = dist.get_rank()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    # The model is gone before the process group is: the other way round torch can hang at the end.
    weights = train(rank, device)
    everyone = [torch.zeros_like(weights) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, weights)
    same = all(torch.equal(other, weights) for other in everyone)
    print(f"rank {rank} of {dist.get_world_size()}: replicas {'agree' if same else 'DIFFER'}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
