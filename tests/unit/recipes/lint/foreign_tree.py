"""A collection in another team's layout, with no file of ours: many correct oddities."""

from __future__ import annotations

from pathlib import Path

GRPO_BASE = """\
grpo:
  num_prompts_per_step: 32
  num_generations_per_prompt: 16
  max_num_epochs: 1
  max_num_steps: 1000000
  val_period: 10
  val_at_start: false
  seed: 42
loss_fn:
  reference_policy_kl_penalty: 0.01
  ratio_clip_min: 0.2
checkpointing:
  enabled: true
  checkpoint_dir: "results/grpo"
  metric_name: "val:accuracy"
  keep_top_k: 3
policy:
  model_name: "Qwen/Qwen2.5-1.5B"
  tokenizer:
    name: ${policy.model_name} ## specify if you'd like another
  train_global_batch_size: 512
  train_micro_batch_size: 4
  max_total_sequence_length: 512
  precision: "bfloat16"
  dtensor_cfg:
    _v2: true
    enabled: true
    cpu_offload: False
    sequence_parallel: false
    activation_checkpointing: false
    tensor_parallel_size: 1
    context_parallel_size: 1
    custom_parallel_plan: null
    env_vars: {}
  megatron_cfg:
    enabled: false
    tensor_model_parallel_size: 1
    pipeline_model_parallel_size: 1
    context_parallel_size: 1
    expert_model_parallel_size: 1
    expert_tensor_parallel_size: 1
    sequence_parallel: false
    activation_checkpointing: false
    num_layers_in_first_pipeline_stage: null
    num_layers_in_last_pipeline_stage: null
    pipeline_dtype: ${policy.precision}
    fp8_cfg:
      enabled: false
    optimizer:
      lr: 5.0e-6
      weight_decay: 0.01
  dynamic_batching:
    enabled: false
    train_mb_tokens: ${mul:${policy.max_total_sequence_length}, ${policy.train_micro_batch_size}}
  sequence_packing:
    enabled: false
  make_sequence_length_divisible_by: ${policy.dtensor_cfg.tensor_parallel_size}
  max_grad_norm: 1.0
  optimizer:
    name: "torch.optim.AdamW"
    kwargs:
      lr: 5.0e-6
      weight_decay: 0.01
      betas: [0.9, 0.999]
      eps: 1e-8
  scheduler:
    - name: "torch.optim.lr_scheduler.LinearLR"
      kwargs:
        start_factor: 0.1
        total_iters: 50
    - milestones: [50]
  generation:
    backend: "vllm"
    max_new_tokens: ${policy.max_total_sequence_length}
    temperature: 1.0
    stop_strings: null
    vllm_cfg:
      async_engine: false
      precision: ${policy.precision}
      kv_cache_dtype: "auto"
      tensor_parallel_size: 1
      gpu_memory_utilization: 0.6
    colocated:
      enabled: true
      resources:
        gpus_per_node: null
        num_nodes: null
data:
  dataset_name: "OpenMathInstruct-2"
  shuffle: true
logger:
  log_dir: "logs"
  wandb_enabled: false
  wandb: {project: "grpo-dev", name: "logger"}
cluster:
  gpus_per_node: 1
  num_nodes: 1
"""
MEGATRON_BASE = """\
# the same with the other backend
defaults: "grpo_math_1B.yaml"
policy:
  dtensor_cfg:
    enabled: false
  megatron_cfg:
    enabled: true
    converter_type: "Qwen2ForCausalLM"
"""
SFT_BASE = """\
sft:
  max_num_epochs: 1
  max_num_steps: 60
  val_period: 10
  val_at_start: true
policy:
  model_name: "meta-llama/Llama-3.2-1B"
  train_global_batch_size: 32
  train_micro_batch_size: 1
  max_total_sequence_length: 1024
  precision: "bfloat16"
  dtensor_cfg:
    enabled: true
    sequence_parallel: false
    activation_checkpointing: false
    tensor_parallel_size: 1
    context_parallel_size: 1
  megatron_cfg: &off
    enabled: false
  dynamic_batching: *off
  sequence_packing: *off
  optimizer:
    name: "torch.optim.AdamW"
    kwargs: {lr: 5.0e-6, weight_decay: 0.1}
cluster:
  gpus_per_node: 1
  num_nodes: 1
"""

COMMON = """\
set -eou pipefail
EXP_NAME=$(basename $0 .sh)
EXP_DIR=$SCRIPT_DIR/$EXP_NAME
LOG_DIR=$EXP_DIR/logs
JSON_METRICS=$EXP_DIR/metrics.json
RUN_LOG=$EXP_DIR/run.log
CONFIG_PATH=$(echo $SCRIPT_DIR | sed 's#tests/test_suites#examples/configs/recipes#')/$EXP_NAME.yaml
exit_if_max_steps_reached() {
  STEPS_SO_FAR=$(jq '."train/loss" | keys | map(tonumber) | max' $JSON_METRICS || echo 0)
}
"""

DRIVER = """\
#!/bin/bash
SCRIPT_DIR=$( cd -- "$( dirname -- "${{BASH_SOURCE[0]}}" )" &> /dev/null && pwd)
source $SCRIPT_DIR/common.env

# ===== BEGIN CONFIG =====
{config}# ===== END CONFIG =====

exit_if_max_steps_reached

# Run the experiment
cd $PROJECT_ROOT
uv run examples/{script} \\
    --config {path} \\
    {section}.max_num_steps=$MAX_STEPS \\
    logger.log_dir=$LOG_DIR \\
    logger.wandb_enabled=True \\
    logger.wandb.name=$EXP_NAME \\
{overrides}    checkpointing.checkpoint_dir=$CKPT_DIR \\
    $@ \\
    2>&1 | tee $RUN_LOG

# Convert tensorboard logs to json
uv run tests/json_dump_tb_logs.py $LOG_DIR --output_path $JSON_METRICS

# Only run metrics if the target step is reached
if [[ $(jq '."train/loss" | keys | map(tonumber) | max' $JSON_METRICS) -ge $MAX_STEPS ]]; then
    uv run tests/check_metrics.py $JSON_METRICS{checks}
    # Clean up after a successful run.
    rm -rf "$CKPT_DIR"
fi
"""

PLANT_MODEL = "mistral-7b"
CHECKS = (
    'mean(data["train/token_mult_prob_error"]) < 1.1',
    'mean(data["train/reward"], -10, 0) > 0.4',
)


def config(nodes: int = 1, steps: int = 500, per_run: int = 500, extra: str = "") -> str:
    return (
        f"NUM_NODES={nodes}\n{extra}STEPS_PER_RUN={per_run}\nMAX_STEPS={steps}\n"
        "NUM_RUNS=$(( (MAX_STEPS + STEPS_PER_RUN - 1) / STEPS_PER_RUN ))  # Round up\n"
        "NUM_MINUTES=120\n"
    )


class ForeignTree:
    """Writes drivers, recipes and listings below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = PLANT_MODEL
        """What every name has in place of ``PLANT_MODEL``: keeps plants in one tree apart."""
        self.listed: dict[str, list[str]] = {"nightly": [], "release": [], "performance": []}
        self.write("examples/configs/grpo_math_1B.yaml", GRPO_BASE)
        self.write("examples/configs/grpo_math_1B_megatron.yaml", MEGATRON_BASE)
        self.write("examples/configs/sft.yaml", SFT_BASE)
        self.write("tests/test_suites/llm/common.env", COMMON)
        (root / "tests/test_suites/vlm").mkdir()
        (root / "tests/test_suites/vlm/common.env").symlink_to("../llm/common.env")
        self.write("tests/test_suites/README.md", "Recipes\n")

    def named(self, text: str) -> str:
        return text.replace(PLANT_MODEL, self.model)

    def write(self, path: str, text: str, *, executable: bool = False) -> Path:
        file = self.root / self.named(path)
        text = self.named(text)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755 if executable else 0o644)
        return file

    def add(
        self,
        name: str,
        recipe: str | None = "",
        *,
        block: str | None = None,
        base: str = "grpo_math_1B.yaml",
        checks: tuple[str, ...] = CHECKS,
        overrides: tuple[str, ...] = (),
        listing: str | None = "nightly",
        folder: str = "llm",
        path: str = "$CONFIG_PATH",
        driver: bool = True,
    ) -> str:
        """Write a driver and its recipe; returns the stem of their paths, as ``llm/<name>``."""
        stem = self.named(f"{folder}/{name}")
        if recipe is not None:
            up = "../" * (folder.count("/") + 2)
            self.write(f"examples/configs/recipes/{stem}.yaml", f"defaults: {up}{base}\n{recipe}")
        if driver:
            section = "sft" if name.startswith("sft") else "grpo"
            self.write(
                f"tests/test_suites/{stem}.sh",
                DRIVER.format(
                    config=config() if block is None else block,
                    script="run_sft.py" if section == "sft" else "run_grpo_math.py",
                    path=path,
                    section=section,
                    overrides="".join(f"    {override} \\\n" for override in overrides),
                    checks="".join(f" \\\n        '{check}'" for check in checks),
                ),
                executable=True,
            )
            if listing is not None:
                self.listed[listing].append(f"tests/test_suites/{stem}.sh")
        return stem

    def finish(self) -> None:
        """Write the listings."""
        for name, drivers in self.listed.items():
            rows = "".join(f"{driver}\n" for driver in drivers)
            self.write(f"tests/test_suites/{name}.txt", f"# {name.upper()}\n\n{rows}")


def cluster(nodes: int, gpus: int) -> str:
    said = "".join(
        f"  {key}: {value}\n"
        for key, value in (("gpus_per_node", gpus), ("num_nodes", nodes))
        if value != 1
    )
    return f"cluster:\n{said}" if said else ""


def policy(*lines: str) -> str:
    return "policy:\n" + "".join(f"  {line}\n" for line in lines)


def add_correct_recipes(tree: ForeignTree) -> None:
    """About a hundred and fifty recipes without a mistake."""
    for nodes in (1, 2, 4, 8):
        for tensor in (1, 2, 4, 8):
            sizes = [] if tensor == 1 else [f"dtensor_cfg: {{tensor_parallel_size: {tensor}}}"]
            for model, path in (
                ("llama3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"),
                ("qwen3-8b-base", "Qwen/Qwen3-8B-Base"),
                ("gemma3-27b-it", "google/gemma-3-27b-it"),
            ):
                tree.add(
                    f"grpo-{model}-{nodes}n8g-fsdp2tp{tensor}",
                    policy(f'model_name: "{path}"', *sizes) + cluster(nodes, 8),
                    block=config(nodes),
                )
        for flag in ("", "-long", "-fp8-rollouts"):
            generation = "generation: {vllm_cfg: {precision: 'fp8'}}" if "fp8" in flag else ""
            tree.add(
                f"grpo-llama3.1-8b-instruct-{nodes}n8g-megatron{flag}.v3",
                policy(
                    "model_name: meta-llama/Llama-3.1-8B-Instruct",
                    "megatron_cfg: {tensor_model_parallel_size: 2, sequence_parallel: true}",
                    *([generation] if generation else []),
                )
                + cluster(nodes, 8),
                block=config(nodes, 1000 if flag == "-long" else 100, 100),
                base="grpo_math_1B_megatron.yaml",
            )
    add_odd_names(tree)
    add_odd_layouts(tree)
    add_odd_folders(tree)
    add_odd_drivers(tree)
    add_odd_listings(tree)


# what follows looks wrong to a hasty reader, and is right
def add_odd_names(tree: ForeignTree) -> None:
    """Names that say less, or more, than the others; the recipes are plain."""
    tree.add("grpo-qwen2.5-1.5b-1n1g-fsdp2tp1", "", listing="release")
    tree.add(
        "grpo-deepscaler-1.5b-8K",
        policy("max_total_sequence_length: 8192", "dynamic_batching: {enabled: True}")
        + cluster(1, 8),
    )
    tree.add(
        "grpo-deepscaler-1.5b-16K",
        "policy:\n  max_total_sequence_length: 16384\n",
        base="recipes/llm/grpo-deepscaler-1.5b-8K.yaml",
    )
    tree.add(
        "vlm_grpo-qwen2.5-vl-3b-instruct-clevr-1n2g-dtensor2tp1.v1",
        cluster(1, 2),
        folder="vlm",
        checks=('data["validation/accuracy"]["200"] > 0.9',),
    )


def add_odd_layouts(tree: ForeignTree) -> None:
    """Ranks that are given out in unusual ways, or by the driver."""
    tree.add(
        "sft-llama3.2-1b-2n8g-fsdp2tp1",
        "",
        base="sft.yaml",
        block=config(2),
        checks=('mean(data["train/loss"], -10, -1) < 0.9',),
        overrides=("cluster.num_nodes=$NUM_NODES", "cluster.gpus_per_node=8"),
    )
    tree.add(
        "grpo-llama3.1-8b-instruct-2n8g-fsdp2tp1-noncolocated",
        policy(
            "train_global_batch_size: 256",
            "generation:",
            "  colocated:",
            "    enabled: false",
            "    resources: {num_nodes: 1, gpus_per_node: 8}",
        )
        + cluster(2, 8),
        block=config(2),
    )
    tree.add(
        "grpo-qwen3-30ba3b-8n8g-megatron",
        policy(
            'model_name: "Qwen/Qwen3-30B-A3B"',
            "megatron_cfg:",
            "  tensor_model_parallel_size: 4",
            "  pipeline_model_parallel_size: 4",
            "  expert_model_parallel_size: 8  # spans two tensor groups, not the whole world",
        )
        + cluster(8, 8),
        base="grpo_math_1B_megatron.yaml",
        block=config(8),
    )
    tree.add(
        "grpo-qwen2.5-32b-32n8g-fsdp2tp8sp-actckpt-long.v3",
        policy(
            "model_name: Qwen/Qwen2.5-32B",
            "dtensor_cfg:",
            "  tensor_parallel_size: 8",
            "  sequence_parallel: True",
            "  activation_checkpointing: True",
        )
        + cluster(32, 8),
        block=config(32, 20, 2),
    )


def add_odd_folders(tree: ForeignTree) -> None:
    """Recipes in a folder of their own, with a base beside them."""
    tree.add(
        "grpo-deepseek-v3-32n8g-async-1off",
        policy(
            "model_name: unsloth/DeepSeek-V3-0324-BF16",
            "megatron_cfg:",
            "  tensor_model_parallel_size: 8",
            "  pipeline_model_parallel_size: 16",
            "  num_layers_in_first_pipeline_stage: 3",
            "  num_layers_in_last_pipeline_stage: 2",
            "generation: {colocated: {enabled: false, resources: {num_nodes: 16}}}",
        )
        + cluster(32, 8),
        base="grpo_math_1B_megatron.yaml",
        block=config(32),
        folder="llm/performance",
        listing="performance",
    )
    tree.add(
        "grpo-llama3.1-8b-instruct-2n8g-gen-tp2-train-tp4",
        policy(
            "dtensor_cfg: {tensor_parallel_size: 4}",
            "generation: {vllm_cfg: {tensor_parallel_size: 2}}",
            "optimizer: {_override_: true, name: torch.optim.AdamW, kwargs: {lr: 5.0e-6}}",
        )
        + cluster(2, 8),
        block=config(2),
        folder="llm/performance",
        listing="performance",
    )
    tree.write(
        "examples/configs/recipes/llm/performance/shared-deepseek.yaml",
        "defaults: ../../../grpo_math_1B_megatron.yaml\npolicy: {train_micro_batch_size: 1}\n",
    )
    tree.add(
        "grpo-deepseek-v3-16n8g",
        cluster(16, 8),
        base="recipes/llm/performance/shared-deepseek.yaml",
        block=config(16),
        folder="llm/performance",
        listing="performance",
    )


def add_odd_drivers(tree: ForeignTree) -> None:
    """Drivers that are written unlike the others."""
    tree.add(
        "grpo-qwen3-4b-1n8g-fsdp2tp1",
        cluster(1, 8),
        block="# one node\nNUM_NODES=1 # only\n\nGPUS_PER_NODE=\"8\"\nSTEPS_PER_RUN='200'\n"
        "MAX_STEPS=400   # twice\nNUM_RUNS=2\nNUM_MINUTES=$((60 * 4))\nVAL_STEP=400\n",
        checks=(),
        path="$PROJECT_ROOT/examples/configs/recipes/llm/${EXP_NAME}.yaml",
    )
    driver = tree.root / "tests/test_suites/llm/grpo-qwen3-4b-1n8g-fsdp2tp1.sh"
    driver.write_text(
        driver.read_text(encoding="utf-8").replace(
            "check_metrics.py $JSON_METRICS",
            "check_metrics.py $JSON_METRICS \\\n"
            "        'data[\"validation/accuracy\"][\"'$MAX_STEPS'\"] > 0.1' \\\n"
            '        "data[\\"validation/accuracy\\"][\\"${VAL_STEP}\\"] > 0.1"\n'
            "    uv run tests/check_metrics.py ${RUN_LOG}-8k-metric.json "
            "'data[\"score\"] >= 0.2396'\n"
            "    cat <<'EOF'\nnot a 'command\nEOF\n    true",
        ),
        encoding="utf-8",
    )
    # one recipe, trained by a second driver under its own name
    shared = "grpo-qwen3-4b-1n8g-fsdp2tp1-quick"
    tree.add(
        shared,
        None,
        path="$PROJECT_ROOT/examples/configs/recipes/llm/grpo-qwen3-4b-1n8g-fsdp2tp1.yaml",
        block=config(1, 20, 20),
    )
    tree.add(
        "grpo-shared-qwen3-4b-1n8g-fsdp2tp1",
        cluster(1, 8),
        driver=False,
    )
    tree.add(
        "grpo-qwen3-4b-1n8g-fsdp2tp1-other",
        None,
        path="examples/configs/recipes/llm/grpo-shared-qwen3-4b-1n8g-fsdp2tp1.yaml",
    )
    tree.write("tests/test_suites/run_all.sh", "for f in $(cat nightly.txt); do bash $f; done\n")
    tree.write("tests/test_suites/llm/upload_results.sh", "#!/bin/bash\ntar c . | zstd\n")
    # results of a run lie beside its driver
    tree.write(
        "tests/test_suites/llm/grpo-qwen3-4b-1n8g-fsdp2tp1/snapshot/grpo-x-9n9g-fsdp2tp1.sh", "x\n"
    )


def add_odd_listings(tree: ForeignTree) -> None:
    """A listing with paths relative to the suites folder, headings and remarks."""
    for name in ("grpo-gemma3-1b-it-1n8g-fsdp2tp1", "grpo-nano-v2-12b-1n8g-fsdp2tp1"):
        tree.add(name, cluster(1, 8), listing=None)
    tree.write(
        "tests/test_suites/nightly_gb200.txt",
        "########\n# GRPO #\n########\n\n"
        "   llm/grpo-gemma3-1b-it-1n8g-fsdp2tp1.sh   # Gemma's first\n"
        "./llm/grpo-nano-v2-12b-1n8g-fsdp2tp1.sh\n"
        "# llm/grpo-gone-1n8g-fsdp2tp1.sh\n",
    )
    tree.write("tests/test_suites/requirements.txt", "numpy\n")
    tree.add("grpo-qwen3-4b-4n8g-fsdp2tp1", cluster(4, 8), block=config(4), listing=None)
    tree.write("tests/test_suites/llm/weekly.txt", "grpo-qwen3-4b-4n8g-fsdp2tp1.sh\n")
    tree.write("tests/test_suites/notes.txt", "See x.sh for how\nto run these by hand\n")
