"""Every kind of document that people write, and the union that parses them."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from quarterdeck.specs.accelerator_share import ReplicaResources
from quarterdeck.specs.architecture import Architecture
from quarterdeck.specs.base import Name, Spec
from quarterdeck.specs.batch import BatchSpec
from quarterdeck.specs.chains import Chain
from quarterdeck.specs.common import Checkpoints, Datasets, JobSpec, Resource
from quarterdeck.specs.engines import EngineFields
from quarterdeck.specs.graph import Inputs, Outputs
from quarterdeck.specs.presets import load_preset
from quarterdeck.specs.references import ReferenceText
from quarterdeck.specs.roles import LaunchFields
from quarterdeck.specs.rollout import Rollout
from quarterdeck.specs.routing import Routing
from quarterdeck.specs.serving import Admission, Aliases, Mirror, Timeouts
from quarterdeck.specs.training import Elastic, Parallelism, Precision, Sync, Training
from quarterdeck.specs.units import Count, Seconds, Share
from quarterdeck.specs.workdir import Upload


def _architecture(value: object) -> object:
    return load_preset(value) if isinstance(value, str) else value


class DatasetSpec(JobSpec):
    """Register the files at a URI as a dataset version with a content hash.

    Registering is work for a machine that can read the URI, so it runs as a one-rank job and
    ends in a version named like it. `held_out` is the share kept from training, chosen by the
    hash of each file's content.
    """

    kind: Literal["dataset"]
    uri: str = Field(min_length=1)
    include: tuple[str, ...] = ("**/*",)
    exclude: tuple[str, ...] = ()
    held_out: Share = 0.0

    @property
    def rank_count(self) -> int:
        return 1


class TokenizerSpec(JobSpec):
    """Train a tokenizer on a dataset's training split."""

    kind: Literal["tokenizer"]
    method: Literal["bpe"] = "bpe"
    dataset: ReferenceText
    vocabulary: Count = Field(ge=257, le=1_000_000)
    special_tokens: tuple[str, ...] = ()

    @property
    def rank_count(self) -> int:
        return 1


class DataSpec(JobSpec):
    """Make a dataset from datasets. `tokenize` writes memory-mapped token shards."""

    kind: Literal["data"]
    method: Literal["tokenize"] = "tokenize"
    datasets: Datasets
    tokenizer: ReferenceText
    ranks: int = Field(default=1, ge=1, le=4096)

    @property
    def rank_count(self) -> int:
        return self.ranks


class PretrainSpec(JobSpec):
    """Train a decoder from its initialisation on token shards."""

    kind: Literal["pretrain"]
    architecture: Annotated[Architecture, BeforeValidator(_architecture)]
    tokenizer: ReferenceText | None = None
    """None: the tokenizer that made the datasets."""
    datasets: Datasets
    parallelism: Parallelism | Literal["auto"] = "auto"
    ranks: int | None = Field(default=None, ge=1, le=1_000_000)
    training: Training
    sync: Sync | None = None
    """None: gradients are synchronised in every step."""
    precision: Precision | None = None
    """None: bf16, fp32 on CPU."""
    backend: Literal["deepspeed"] = "deepspeed"
    tracking: Literal["tensorboard"] | None = None
    """Metrics as event files too, under tracking/ in the artifact store."""
    checkpoints: Checkpoints = Checkpoints()
    elastic: Elastic | None = None
    """None: it waits for its full gang."""

    @model_validator(mode="after")
    def _ranks_agree(self) -> PretrainSpec:
        if isinstance(self.parallelism, Parallelism) and self.ranks is not None:
            product = self.parallelism.ranks
            if product != self.ranks:
                raise ValueError(
                    f"ranks {self.ranks} is not data × tensor × pipeline = {product}: "
                    "leave ranks out, or change a degree"
                )
        ranks = self.rank_count
        if self.elastic is not None and ranks is not None and self.elastic.min_ranks > ranks:
            raise ValueError(
                f"elastic.min_ranks {self.elastic.min_ranks} is more than the gang's {ranks} ranks"
            )
        return self

    @model_validator(mode="after")
    def _replicas_can_part(self) -> PretrainSpec:
        if self.sync is not None and isinstance(self.parallelism, Parallelism):
            problem = self.sync.broken_rule(self.parallelism)
            if problem:
                raise ValueError(problem)
        if self.sync is not None and self.elastic is not None:
            raise ValueError(
                "elastic: with sync each replica trains by itself, so that fewer replicas would be "
                "another training; leave elastic or sync out"
            )
        return self

    @property
    def rank_count(self) -> int | None:
        """Ranks of the gang; None until the planner has chosen."""
        if isinstance(self.parallelism, Parallelism):
            return self.parallelism.ranks
        return self.ranks


class EvaluateSpec(JobSpec):
    """Score a model on datasets."""

    kind: Literal["evaluate"]
    model: ReferenceText
    datasets: Datasets
    metrics: tuple[Literal["perplexity", "bits_per_byte"], ...] = ("perplexity", "bits_per_byte")
    sequence_length: Count | None = None
    max_tokens: Count | None = None
    """Evaluate at most this many tokens of each dataset; None: all."""

    @property
    def rank_count(self) -> int:
        return 1


class CommandSpec(LaunchFields, JobSpec):
    """A user's own program on a gang of ranks with torchrun-compatible variables."""

    kind: Literal["command"]
    workdir: str | Upload | None = None
    """A relative path is a folder to upload, an absolute one or a URI one of the machines."""
    setup: str | None = Field(default=None, min_length=1, max_length=100_000)
    """A shell command that makes `$QUARTERDECK_ENV_DIR`, once for each node and content."""
    exit_grace: Seconds = Field(default=600, gt=0)
    """Once a rank has ended with 0: how long the others of its role may go on in silence."""
    tracking: Literal["tensorboard", "mlflow", "wandb"] | None = None
    """One experiment over all attempts: the tool's variables and a folder that is kept."""
    hold_on_failure: Seconds | None = Field(default=None, gt=0, le=86400)
    """After a failure keep the slots and folders for `exec`, so long at most."""
    restart_safe: bool = False
    checkpoints: Checkpoints | None = None
    inputs: Inputs = {}
    """Versions to read, by a name of one's own: `$QUARTERDECK_INPUT_<NAME>`."""
    outputs: Outputs = {}
    """Folders of rank 0's working directory that become versions named like the job when it
    succeeds, by what they are: model, dataset or tokenizer."""

    @property
    def rank_count(self) -> int:
        return self.ranks


class ServiceParallelism(Spec):
    """How one replica spans accelerators."""

    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)


_OF_CHAINS = frozenset(
    {"kind", "name", "project", "labels", "chain", "aliases", "fallback", "mirror", "timeouts"}
)
"""Fields that mean something where there are no replicas."""


class ServiceSpec(EngineFields, Resource):
    """An inference endpoint behind one name: replicas of one model, or a chain of services."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["model"]}, {"required": ["chain"]}]}
    )

    kind: Literal["service"]
    model: ReferenceText | None = None
    chain: Chain | None = None
    """Instead of a model: services of the same project that are asked one after the other."""
    parallelism: ServiceParallelism = ServiceParallelism()
    replicas: int = Field(default=1, ge=0, le=1000)
    rollout: Rollout = Rollout()
    """How it goes from one revision to the next."""
    resources: ReplicaResources = ReplicaResources()
    queue: str = "default"
    priority: int = 100
    cluster: str | None = None
    routing: Routing = Routing()
    aliases: Aliases = ()
    fallback: Name | None = None
    """A service of the same project that answers when this one cannot."""
    mirror: Mirror | None = None
    idle_after: Seconds | None = Field(default=None, ge=10, le=30 * 86_400)
    """Without a request for so long it goes to zero replicas, and the next one wakes it."""
    admission: Admission = Admission()
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="after")
    def _model_or_chain(self) -> ServiceSpec:
        if self.chain is None:
            if self.model is None:
                raise ValueError(
                    "model: is missing: name the model to serve, or give chain, the services that "
                    "are asked one after the other"
                )
            return self
        for name, field in type(self).model_fields.items():
            if name not in _OF_CHAINS and getattr(self, name) != field.get_default():
                raise ValueError(
                    f"{name}: a chain has no replicas of its own: leave it out, or write it into "
                    "the service of a step"
                )
        plain = Timeouts(total=self.timeouts.total)
        if self.timeouts != plain:
            raise ValueError(
                "timeouts: only total is a chain's own: leave the others out, those of the steps' "
                "services count"
            )
        return self

    @model_validator(mode="after")
    def _engine_spans(self) -> ServiceSpec:
        if self.engine == "builtin" and self.rank_count > 1:
            raise ValueError(
                "parallelism: the builtin engine keeps a model on one accelerator: leave it out, "
                "or take engine: vllm"
            )
        return self

    @model_validator(mode="after")
    def _shares_one(self) -> ServiceSpec:
        share = self.resources.accelerator_share
        if share is not None and self.rank_count > 1:
            raise ValueError(
                f"resources.accelerator_share: {share:g} is a part of one accelerator, and "
                f"parallelism spreads a replica over {self.rank_count}: leave one of them out"
            )
        return self

    @property
    def own_replicas(self) -> int:
        """Replicas to be started: a chain has none."""
        return self.replicas if self.chain is None else 0

    @property
    def rank_count(self) -> int:
        return prod((self.parallelism.tensor, self.parallelism.pipeline))


AnyJob = (
    DatasetSpec | TokenizerSpec | DataSpec | PretrainSpec | EvaluateSpec | BatchSpec | CommandSpec
)
Document = Annotated[AnyJob | ServiceSpec, Field(discriminator="kind")]
DOCUMENT: TypeAdapter[AnyJob | ServiceSpec] = TypeAdapter(Document)

JOB_KINDS = ("dataset", "tokenizer", "data", "pretrain", "evaluate", "batch", "command")
KINDS = (*JOB_KINDS, "service")
