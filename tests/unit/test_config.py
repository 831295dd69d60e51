"""Recipes: sparse files, full validation before anything runs, one clear line for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from boig_core.config import Recipe, load_recipe, parse_recipe, recipe_names
from boig_core.errors import RecipeError


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_resolve_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_every_field_is_documented() -> None:
    for section, field in Recipe.model_fields.items():
        assert field.description, section
        inner = getattr(field.annotation, "model_fields", {})
        assert [f"{section}.{name}" for name, f in inner.items() if not f.description] == []


def test_overrides_win_and_the_last_one_most(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3\nddpo: {epochs: 7}\n")
    recipe = load_recipe(
        path,
        [
            "ddpo.epochs=8",
            "ddpo.epochs=9",
            "ddpo.window=null",
            "data.split=[0.5, 0.25, 0.25]",
            "evaluation.judge=adworld:x",
        ],
    )
    assert (recipe.name, recipe.seed, recipe.ddpo.epochs, recipe.ddpo.window) == (
        "mine",
        3,
        9,
        None,
    )
    assert recipe.data.split == (0.5, 0.25, 0.25)
    assert recipe.evaluation.judge == "adworld:x"


def test_digest_follows_content_only(tmp_path: Path) -> None:
    item = load_recipe(write(tmp_path, "seed: 1\nllm: {steps: 5}"))
    same = load_recipe(write(tmp_path, "llm:\n  steps: 5\nseed: 1  # a comment"))
    assert item.digest() == same.digest()
    assert re.fullmatch(r"[0-9a-f]{64}", item.digest())
    assert load_recipe(write(tmp_path, "seed: 2\nllm: {steps: 5}")).digest() != item.digest()


def test_patterns_go_by_name_or_number(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "llm: {patterns: {1: 2, aim_describe: 1, '4': 0.5}}"))
    assert recipe.llm.patterns == {"describe": 2, "aim_describe": 1, "predict": 0.5}
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe().llm.patterns == {"describe": 1}


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("tiny").seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sed: 1", r"^sed: is not a key of the recipe; did you mean seed\?$"),
        ("ddpo: {epoch: 1}", r"^ddpo\.epoch: .*did you mean epochs\?$"),
        ("ddpo: {zzz: 1}", r"^ddpo\.zzz: .*known keys: epochs, "),
        ("seed: -1", r"^seed = -1: input should be greater than or equal to 0"),
        ("seed: soon", r"^seed = 'soon': input should be a valid integer"),
        ("llm: {lr: .inf}", r"^llm\.lr = inf: input should be a finite number"),
        ("llm: {lr: .nan}", r"^llm\.lr = nan: input should be "),
        ("llm: {zero_stage: 4}", r"^llm\.zero_stage = 4: input should be 0, 1, 2 or 3"),
        (
            "llm: {patterns: {}}",
            r"^llm\.patterns: must hold weights of at least 0, one of them above 0",
        ),
        ("llm: {patterns: {1: 0}}", r"^llm\.patterns: must hold weights"),
        ("llm: {patterns: {1: 1, 2: -1}}", r"^llm\.patterns: must hold weights"),
        (
            "llm: {patterns: {5: 1}}",
            r"^llm\.patterns\.5.* input should be 'describe', 'aim_describe', 'aim_predict' or 'predict'",
        ),
        ("llm: {patterns: [1]}", r"^llm\.patterns = \[1\]: input should be a valid dictionary"),
        ("llm: {kpi_noise: 1}", r"^llm\.kpi_noise = 1: input should be less than 1"),
        (
            "llm: {more_kpis: [shares]}",
            r"llm\.more_kpis \['shares'\] must be among data\.more_kpis \[\]",
        ),
        ("llm: {offload: all}", r"^llm: offload all needs a zero_stage of at least 3, not 2"),
        (
            "reward: {weights: {magic: 1}}",
            r"^reward\.weights\.magic.* = 'magic': input should be 'contrast'",
        ),
        (
            "reward: {weights: {engagement: 1}}",
            r"reward\.weights name engagement, which needs a predictor: set llm\.predictor to head or text",
        ),
        (
            "evaluation: {judge: predictor}",
            r"set data\.judge above 0, and llm\.predictor to head or text",
        ),
        ("{evaluation: {judge: predictor}, llm: {predictor: head}}", r"set data\.judge above 0"),
        ("reward: {weights: {}}", r"^reward\.weights: dictionary should have at least 1 item"),
        ("reward: {weights: {dsg: 0}}", r"weights \{'dsg': 0\.0\} must differ from 0"),
        (
            "data: {split: [0.5, 0.1, 0.1]}",
            r"split \(0\.5, 0\.1, 0\.1\) must be three positive shares",
        ),
        ("data: {percentiles: [90, 60]}", r"must rise within \(0, 100\)"),
        (
            "data: {since: yesterday}",
            r"^data\.since = 'yesterday': must be a day such as 2020-01-31",
        ),
        (
            "data: {since: 2021-01-01, until: 2020-01-01}",
            r"since 2021-01-01 must be before until 2020-01-01",
        ),
        ("ddpo: {chunk: 7}", r"chunk 7 must divide prompts x images_per_prompt = 128"),
        ("ddpo: {updates: 3}", r"updates x workers = 3 must divide"),
        ("ddpo: {window: 9}", r"window 9 must fit"),
        (
            "ddpo: {window: 10, window_span: 1}",
            r"window 10 must be below sampling_steps = 10: the last step has no noise",
        ),
        ("ddpo: {eta: 0}", r"^ddpo\.eta = 0: input should be greater than 0"),
        ("ddpo: {eta: 1.1}", r"^ddpo\.eta = 1\.1: input should be less than or equal to 1"),
        ("ddpo: {objective: awm, guidance: 5}", r"objective awm needs guidance 1, not 5"),
        ("ddpo: {objective: awm, shared_noise: true}", r"objective awm excludes shared_noise"),
        (
            "ddpo: {kl: 0.1, lora_rank: null}",
            r"kl 0\.1 from the base needs a LoRA that can be switched off",
        ),
        (
            "ddpo: {anchor: ema, ema: 0.9}",
            r"anchor ema needs ema, the decay of its moving average, and a kl above 0",
        ),
        ("ddpo: {anchor: ema, kl: 0.1}", r"anchor ema needs ema"),
        (
            "ddpo: {ahead: true, probe_every: null, monitors: {fall: {action: keep_best}}}",
            r"^ddpo: ahead and a monitor's keep_best need a probe: set probe_every",
        ),
        ("ddpo: {ema: 1}", r"^ddpo\.ema = 1: input should be less than 1"),
        (
            "perception: {clip: 'package:clip-judge'}",
            r"perception\.clip package:clip-judge, which the probe of ddpo reads, must differ",
        ),
        ("ddpo: {logprob: sum}", r"logprob sum needs a clip_ratio of its own"),
        (
            "{ddpo: {workers: 2}, resources: {gpus: 0.5}}",
            r"2 ranks of 0.5 GPU may share one: ask for more than 0.5",
        ),
        ("name: 'Not a slug!'", r"^name = 'Not a slug!': string should match"),
        ("- a list", r"must be a mapping of sections"),
        ("seed: [", r"is not valid YAML"),
        ("seed: 2020-13-01", r"is not valid YAML; month must be in 1..12"),
        ("seed: !!bool maybe", r"is not valid YAML"),
        ("seed: " + "[" * 3000, r"is not valid YAML"),
        ("seed: " + "[" * 21 + "]" * 21, r"is not valid YAML; more than 20 levels"),
        ("a: &a [1, *a]", r"is not valid YAML; more than 20 levels"),
        (f"a: &a {['x'] * 200}\nb: &b [{'*a,' * 200}]\nseed: *b", r"or 20000 values"),
        (f"seed: {'x' * 9000}", r"seed = 'x+\.\.\.: "),
        ("data: 5", r"^data = 5: input should be a valid dictionary"),
    ],
)
def test_mistakes_end_in_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["seed", "=1", "seed.x=1", "seed=[", "nope.x=1"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe("tiny", [override])


@pytest.mark.parametrize("name", ["nope", "missing.yaml", "./", "/nowhere/x.yml"])
def test_unknown_recipes(name: str) -> None:
    with pytest.raises(RecipeError, match=r"nope|missing|nowhere|\./"):
        load_recipe(name)


def test_days_may_be_bare_yaml_dates(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "data: {since: 2020-01-01, until: '2021-01-01'}"))
    assert (recipe.data.since, recipe.data.until) == ("2020-01-01", "2021-01-01")


def test_each_kind_of_process_asks_for_its_own_or_for_what_the_others_do(tmp_path: Path) -> None:
    own = "ddpo: {rollout_resources: {gpus: 1, labels: {pool: '!learner'}}, worker_resources: {gpus: 0.6}}"
    recipe = load_recipe(write(tmp_path, own + "\nresources: {gpus: 0.2}"))
    assert (
        recipe.rollout_resources.gpus,
        recipe.worker_resources.gpus,
        recipe.scorer_resources.gpus,
    ) == (1, 0.6, 0.2)
    assert recipe.rollout_resources.labels == {"pool": "!learner"}
    shared = load_recipe("tiny")
    assert (
        shared.rollout_resources
        == shared.worker_resources
        == shared.scorer_resources
        == shared.resources
    )


def test_shipped_files_are_sparse() -> None:
    """A recipe file holds only what differs from what it extends, so that a value that changes
    there reaches it."""
    from importlib import resources

    for name in recipe_names():
        tree = yaml.safe_load(
            resources.files("boig_core.recipes").joinpath(f"{name}.yaml").read_text()
        )
        below = (load_recipe(tree["extends"]) if "extends" in tree else Recipe()).model_dump(
            mode="json"
        )
        for section, value in tree.items():
            if isinstance(value, dict):
                repeated = [key for key, item in value.items() if below[section][key] == item]
                assert repeated == [], f"{name}: {section} repeats what it extends"


def test_a_recipe_may_extend_a_shipped_one(tmp_path: Path) -> None:
    path = write(
        tmp_path, "extends: sd14-fast\nseed: 4\nreward: {weights: {dsg: 2}}\nddpo: {epochs: 7}"
    )
    recipe, below = load_recipe(path, ["ddpo.lr=1"]), load_recipe("sd14-fast")
    assert (recipe.name, recipe.seed, recipe.reward.weights) == ("mine", 4, {"dsg": 2})
    assert recipe.ddpo == below.ddpo.model_copy(update={"epochs": 7, "lr": 1})
    assert (recipe.llm, recipe.sd) == (below.llm, below.sd)
    for wrong in ("extends: mine", "extends: [tiny]", "extends: ./mine.yaml"):
        with pytest.raises(
            RecipeError, match=r"must be a recipe of the package; use one of .*tiny"
        ):
            load_recipe(write(tmp_path, wrong))


SIDES = {
    "CompVis/stable-diffusion-v1-4": 512,
    "stabilityai/stable-diffusion-xl-base-1.0": 1024,
    "package:tiny-sd": 32,
}
"""Pixels a side that the shipped recipes' base models paint."""


@pytest.mark.parametrize("name", recipe_names())
def test_numbers_of_a_shipped_recipe_fit_together(name: str) -> None:
    recipe = load_recipe(name)
    llm, sd, ddpo = recipe.llm, recipe.sd, recipe.ddpo
    assert sd.resolution == SIDES[sd.base]
    assert recipe.perception.side <= sd.resolution
    assert llm.batch % llm.workers == 0 == sd.batch % sd.workers
    assert llm.batch // llm.workers % llm.micro_batch == 0
    images = ddpo.prompts * ddpo.images_per_prompt // ddpo.updates // ddpo.workers
    assert images % min(ddpo.micro_batch, images) == 0, (
        "no forward pass of an update is smaller than the others"
    )
    assert recipe.reward.chunk == ddpo.chunk, "a chunk of rollouts is scored as it comes"
    if sd.dtype == "bfloat16":
        assert ddpo.clip_ratio >= 1e-3


def test_the_recipes_of_stable_diffusion_differ_where_their_names_say() -> None:
    paper, fast, sdxl = (load_recipe(name) for name in ("sd14-paper", "sd14-fast", "sdxl"))
    named = load_recipe("sd14-llama13b")
    assert named.model_copy(update={"name": paper.name}) == paper
    assert (
        paper.ddpo.objective,
        paper.ddpo.window,
        paper.ddpo.sampling_steps,
        paper.ddpo.guidance,
    ) == ("ddpo", None, 50, 5.0)
    assert paper.ddpo.prompts * paper.ddpo.images_per_prompt // paper.ddpo.updates == 8
    own = (
        "prompts",
        "updates",
        "sampling_steps",
        "window",
        "guidance",
        "objective",
        "clip_ratio",
        "lora_rank",
    )
    assert [getattr(fast.ddpo, key) for key in own] == [
        getattr(Recipe().ddpo, key) for key in own
    ], "the method measured on the tiny model"
    assert sdxl.ddpo == fast.ddpo.model_copy(update={"chunk": 4, "micro_batch": 4})
    assert paper.llm == fast.llm == sdxl.llm
