"""Launchers are found where a shell would start them, and only there."""

from __future__ import annotations

import pytest

from quarterdeck.specs.launchers import find_launcher


@pytest.mark.parametrize(
    ("command", "launcher"),
    [
        ("torchrun --nproc-per-node 4 train.py", "torchrun"),
        ("/opt/venv/bin/torchrun train.py", "torchrun"),
        ("NCCL_DEBUG=INFO A=b torchrun train.py", "torchrun"),
        ("cd src && torchrun train.py", "torchrun"),
        ("pip install x; torchrun train.py", "torchrun"),
        ("echo a\ntorchrun train.py", "torchrun"),
        ("# a comment; with signs\ntorchrun train.py", "torchrun"),
        ("if true; then torchrun train.py; fi", "torchrun"),
        ("(torchrun train.py) 2>&1 | tee log", "torchrun"),
        ("env -u HOME A=b torchrun train.py", "torchrun"),
        ("exec nice -n 5 timeout -s TERM 30m torchrun train.py", "torchrun"),
        ("bash -lc 'cd x && A=b torchrun train.py'", "torchrun"),
        ("torch\\\nrun train.py", None),
        ("env \\\n  torchrun train.py", "torchrun"),
        ("uv run --frozen torchrun train.py", "torchrun"),
        ("conda run -n base torchrun train.py", "torchrun"),
        ("python -m torch.distributed.run train.py", "python -m torch.distributed.run"),
        (
            "python3.11 -u -X dev -m torch.distributed.launch a",
            "python -m torch.distributed.launch",
        ),
        ("python /usr/bin/deepspeed train.py", "deepspeed"),
        ("accelerate launch --num_processes 2 train.py", "accelerate launch"),
        ("deepspeed --num_gpus 2 train.py", "deepspeed"),
        ("mpirun -np 4 python train.py", "mpirun"),
        ("srun python train.py", "srun"),
        ("python train.py --launcher torchrun", None),
        ("python train.py torchrun", None),
        ("echo torchrun", None),
        ("grep -r 'torchrun train.py' .", None),
        ("pip install deepspeed accelerate", None),
        ("accelerate config", None),
        ("python -m torch.utils.collect_env", None),
        ("python train.py # torchrun later", None),
        ("./torchrun_helper.sh", None),
        ("bash run.sh torchrun", None),
        ("echo 'unfinished && torchrun", None),
        ("", None),
    ],
)
def test_launchers(command: str, launcher: str | None) -> None:
    assert find_launcher(command) == launcher


def test_a_shell_in_a_shell_in_a_shell_ends() -> None:
    command = "torchrun x"
    for _ in range(3):
        command = "eval " + command
    assert find_launcher(command) == "torchrun"
    assert find_launcher("eval " * 1000 + "torchrun x") is None
