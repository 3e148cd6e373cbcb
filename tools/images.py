"""Build the container images `control` and `worker` with the Docker daemon of this machine.

    python3 tools/images.py [control] [worker]
    python3 tools/images.py --name control      only print the name that it has

Standard library only. Variables: IMAGE_REGISTRY goes before the name `quarterdeck/control`,
IMAGE_TAG is the tag (default: the version), BASE_IMAGE and POSTGRES_IMAGE are other origins.
torch of the worker's image is this machine's own CPU build (as pip is set here); TORCH_INDEX names
another index, CUDA=1 agrees to an image with CUDA, of several GB.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "wheels"
IMAGES = ("control", "worker")
WHEEL_OF = [
    "--no-deps", "--only-binary", ":all:", "--python-version", "3.11",
    "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64",
]  # fmt: skip
"""What the images run, whatever Python runs this program."""


def refuse(message):
    """End with one line that says what is wrong and what to do."""
    sys.exit("images: " + message)


def version():
    """Of this tree, without importing it."""
    text = (ROOT / "platform" / "quarterdeck" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def image_name(image, environment):
    """`quarterdeck/control:0.1.0`, below IMAGE_REGISTRY if that is set."""
    registry = environment.get("IMAGE_REGISTRY", "").rstrip("/")
    tag = environment.get("IMAGE_TAG") or version()
    return f"{registry + '/' if registry else ''}quarterdeck/{image}:{tag}"


def check_docker(*plugins):
    """End unless the docker client is here, its daemon answers, and it has these plugins."""
    if shutil.which("docker") is None:
        refuse("docker is not on PATH: install Docker Engine 25 or newer with its client")
    answer = output("docker", "version", "--format", "{{.Server.Version}}")
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        refuse(
            f"the Docker daemon does not answer ({said[-1] if said else 'no reason given'}): "
            "start it, or set DOCKER_HOST to the one to use"
        )
    for plugin in plugins:
        if output("docker", plugin, "version").returncode:
            refuse(f"`docker {plugin}` is missing: install the plugin docker-{plugin}-plugin")


def output(*command):
    """What a command prints; its failure is the caller's matter."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def torch_requirement():
    """`torch==…` of pyproject.toml."""
    script = ROOT / "deploy" / "images" / "requirements.py"
    return output(sys.executable, str(script), "--only", "torch").stdout.strip()


def file_name_of(requirement):
    """The wheel that pip, as it is set here, would take for a requirement."""
    found = output(
        sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
        "--target", str(WHEELS), "--report", "-", *WHEEL_OF, requirement,
    )  # fmt: skip
    if found.returncode:
        said = found.stderr.strip().splitlines()
        refuse(f"pip finds no {requirement}: {said[-1] if said else 'no reason given'}")
    url = json.loads(found.stdout)["install"][0]["download_info"]["url"]
    return url.rpartition("/")[2].replace("%2B", "+")


def prepare_wheels(environment):
    """Fill the build context `wheels`: with torch where this machine has a CPU build and nothing
    else is asked for, else with nothing."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    wanted = None
    if not environment.get("TORCH_INDEX"):
        requirement = torch_requirement()
        name = file_name_of(requirement)
        if "+cpu" in name:
            wanted = name
        elif environment.get("CUDA") != "1":
            refuse(
                f"this machine's package index has {requirement} with CUDA ({name}), several GB: "
                "set TORCH_INDEX to an index with CPU builds, or CUDA=1 if you want it"
            )
    for file in WHEELS.iterdir():
        if file.name != wanted:
            file.unlink()
    if wanted and not (WHEELS / wanted).exists():
        print(f"images: {wanted} into {WHEELS}", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(WHEELS)]
        if subprocess.run([*command, *WHEEL_OF, requirement], check=False).returncode:
            refuse(f"{requirement} could not be fetched, see above")


def build(image, environment):
    """Build one image and load it into the daemon."""
    name = image_name(image, environment)
    print(f"images: building {name}", flush=True)
    revision = output("git", "-C", str(ROOT), "rev-parse", "HEAD").stdout.strip()
    arguments = {
        "VERSION": version(),
        "REVISION": revision or "unknown",
        "BASE_IMAGE": environment.get("BASE_IMAGE"),
        "POSTGRES_IMAGE": environment.get("POSTGRES_IMAGE") if image == "control" else None,
        "TORCH_INDEX": environment.get("TORCH_INDEX") if image == "worker" else None,
    }
    command = ["docker", "buildx", "build", "--load", "--tag", name]
    command += ["--file", str(ROOT / "deploy" / "images" / f"{image}.Dockerfile")]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"] if value else []
    if image == "worker":
        command += ["--build-context", f"wheels={WHEELS}"]
    if subprocess.run([*command, str(ROOT)], check=False).returncode:
        refuse(f"building {name} failed, see above")
    size = output("docker", "image", "inspect", "--format", "{{.Size}}", name).stdout
    print(f"images: {name}, {int(size) / 1e6:,.0f} MB", flush=True)


def main():
    only_name = sys.argv[1:2] == ["--name"]
    chosen = sys.argv[2 if only_name else 1 :] or list(IMAGES)
    if unknown := sorted(set(chosen) - set(IMAGES)):
        refuse(f"no image {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    if only_name:
        print("\n".join(image_name(image, os.environ) for image in chosen))
        return
    check_docker("buildx")
    if "worker" in chosen:
        prepare_wheels(os.environ)
    for image in chosen:
        build(image, os.environ)


if __name__ == "__main__":
    main()
