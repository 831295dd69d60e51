"""The operator's policy: what a recipe may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from boig_core.config import Policy, Recipe, load_policy, load_recipe, read_policy, recipe_names
from boig_core.config.locations import is_below
from boig_core.config.section import Names, Section
from boig_core.errors import InputError, PolicyError, RecipeError

STORE = "s3://b/store"


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def refusals(policy: Policy, *overrides: str) -> list[str]:
    return [str(each) for each in policy.refusals(load_recipe("tiny", overrides), STORE)]


def test_the_strict_default_fits_the_recipe_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOIG_POLICY")
    policy = load_policy()
    assert policy == Policy()
    assert refusals(policy) == []


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("sd.base=/etc", "sd.base"),
        ("sd.base=someone/model", "sd.base"),
        ("llm.base=../model", "llm.base"),
        ("llm.base=s3://other/model", "llm.base"),
        ("perception.clip=~/clip", "perception.clip"),
        ("evaluation.clip=org/clip", "evaluation.clip"),
        ("evaluation.features=org/clip", "evaluation.features"),
        ("evaluation.word_vectors=spacy:evil_package", "evaluation.word_vectors"),
        ("evaluation.word_vectors=hf:/tmp/vectors", "evaluation.word_vectors"),
        ("evaluation.judge=adworld:/etc/passwd", "evaluation.judge"),
        ("evaluation.judge=adworld:../x", "evaluation.judge"),
        ("evaluation.aesthetic={clip: 'package:clip', head: /tmp/head.pt}", "evaluation.aesthetic"),
        ("evaluation.few_shot={base_url: 'https://e.example/v1', model: m}", "evaluation.few_shot"),
        ("reward.runtime_env=shell", "reward.runtime_env"),
        ("reward.min_auc=0.4", "reward.min_auc"),
        ("reward.min_auc=null", "reward.min_auc"),
        ("promotion.min_reward_gain=-0.1", "promotion.min_reward_gain"),
        ("promotion.min_clip_margin=0", "promotion.min_clip_margin"),
        ("promotion.min_diversity=0.4", "promotion.min_diversity"),
        ("promotion.max_fid=null", "promotion.max_fid"),
        ("promotion.max_fid=9", "promotion.max_fid"),
        ("promotion.silent=[fall]", "promotion.silent"),
    ],
)
def test_a_recipe_that_asks_for_more_is_refused_by_field_and_line(
    override: str, field: str
) -> None:
    [refusal] = refusals(Policy(), override)
    assert refusal.startswith(field)
    assert "BOIG_POLICY is not set" in refusal


@pytest.mark.parametrize("key", ["py_executable", "working_dir", "pip", "env_vars", "container"])
def test_no_recipe_writes_a_runtime_environment(key: str) -> None:
    with pytest.raises(RecipeError, match=r"reward\.runtime_env"):
        load_recipe("tiny", [f"reward.runtime_env={{{key}: sh -c id}}"])


def test_no_recipe_names_the_variable_of_a_key() -> None:
    endpoint = "{base_url: 'https://e.example/v1', model: m, key_env: AWS_SECRET_ACCESS_KEY}"
    with pytest.raises(RecipeError, match="key_env: is not a key of the recipe"):
        load_recipe("tiny", [f"evaluation.few_shot={endpoint}"])


def test_what_the_policy_lists_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "models" / "sd").mkdir(parents=True)
    text = f"""
models: [{tmp_path}/models, "hub:openai/", "hub:Org/one", "spacy:en_core_web_md"]
endpoints: {{"https://api.example.org/v1": API_KEY, "http://10.0.0.5:8000": null}}
runtime_envs: {{spacy: {{pip: [spacy]}}}}
recipes: [{tmp_path}/laws]
gates: {{min_reward_gain: -1}}
"""
    policy = read_policy(write(tmp_path, text))
    assert not refusals(
        policy,
        f"sd.base={tmp_path}/models/sd",
        "llm.base=openai/gpt",
        "evaluation.clip=Org/one",
        "evaluation.word_vectors=spacy:en_core_web_md",
        f"evaluation.judge=adworld:{tmp_path}/laws/own.yaml",
        "reward.runtime_env=spacy",
        "evaluation.few_shot={base_url: 'https://API.example.org:443/v1/', model: m}",
        "promotion.min_reward_gain=-0.5",
    )
    assert policy.key_variable("https://api.example.org/v1/x") == "API_KEY"
    assert policy.key_variable("http://10.0.0.5:8000/v1") is None
    assert policy.runtime_env("spacy") == {"pip": ["spacy"]}
    assert policy.runtime_env(None) == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.org/v1",
        "https://api.example.org:8443/v1",
        "https://api.example.org.evil.example/v1",
        "https://api.example.org@evil.example/v1",
        "https://evil.example/https://api.example.org/v1",
        "https://api.example.org/v1/../admin",
        "https://api.example.org/v1/%2e%2e/admin",
        "https://api.example.org/v10",
        "https://api.example.org",
    ],
)
def test_a_key_goes_to_its_own_endpoint_alone(url: str) -> None:
    policy = Policy(endpoints={"https://api.example.org/v1": "API_KEY"})
    with pytest.raises(PolicyError, match="is no endpoint"):
        policy.key_variable(url)


def test_gates_that_ask_a_judge_have_floors_where_the_operator_sets_them() -> None:
    judged = ["promotion.min_judge_gain=null", "promotion.min_champion_gain=-1"]
    assert not refusals(Policy(), *judged)
    policy = Policy(gates={"min_judge_gain": 0.0, "min_champion_gain": -0.5})
    assert [refusal.split(" = ")[0] for refusal in refusals(policy, *judged)] == [
        "promotion.min_judge_gain",
        "promotion.min_champion_gain",
    ]


def test_a_link_below_a_root_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link").symlink_to("/etc")
    policy = Policy(models=(str(tmp_path / "models"),))
    [refusal] = refusals(policy, f"sd.base={tmp_path}/models/link")
    assert "sd.base" in refusal


def test_links_that_lead_in_a_circle_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "out").symlink_to("/etc")
    assert not is_below(f"{tmp_path}/loop/../out/passwd", [str(tmp_path)])
    assert is_below(f"{tmp_path}/x/../y", [str(tmp_path)])


def test_a_refusal_names_the_line_of_the_policy(tmp_path: Path) -> None:
    path = write(tmp_path, "posts: [/data]\n# so much\ngates:\n  max_fid: 1.5\n")
    [refusal] = refusals(read_policy(path))
    assert refusal.startswith("promotion.max_fid = 2.0")
    assert f"{path}:4 (gates.max_fid)" in refusal


def test_images_of_a_run_have_a_ceiling() -> None:
    policy = Policy(ceilings={"images_per_run": 1000})
    [refusal] = refusals(policy, "ddpo.epochs=100")
    assert "1,000" in refusal
    assert not refusals(policy, "ddpo.epochs=1", "evaluation.prompts=2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("post: [/data]", "did you mean posts"),
        ("models: [ftp://x]", "models"),
        ("endpoints: {'https://e.example': 'sk-123 456'}", "endpoints"),
        ("gates: {max_fid: -1}", "gates.max_fid"),
        ("posts: [/a]\nposts: [/b]", "posts stands twice"),
        ("gates: {min_auc: 0.5, min_auc: 0}", "gates.min_auc stands twice"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "is not valid YAML"),
        ("approvers: [ann]", "approvers"),
    ],
)
def test_a_policy_that_is_wrong_allows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("BOIG_POLICY", str(write(tmp_path, text)))
    with pytest.raises(InputError, match=message):
        load_policy()


def test_a_policy_that_is_missing_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOIG_POLICY", "/nowhere/policy.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_policy()


def test_the_digest_knows_content_alone(tmp_path: Path) -> None:
    first = read_policy(write(tmp_path, "posts: [/a]\nimages: [/b]\n"))
    same = read_policy(write(tmp_path, "# moved\nimages: [/b]\nposts: [/a]\n"))
    other = read_policy(write(tmp_path, "posts: [/a]\n"))
    assert first.digest() == same.digest() != other.digest()


def texts_of(section: type[Section], above: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Dotted name and metadata of each field that holds one text, sections within included."""
    for name, field in section.model_fields.items():
        for kind in get_args(field.annotation) or (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from texts_of(kind, f"{above}{name}.")
        if field.annotation in (str, str | None):
            yield f"{above}{name}", field.metadata


WORDS = {
    "name", "data.name", "data.kpi", "data.since", "data.until", "data.user_agent",
    "data.dialect.delimiter", "data.dialect.quote", "data.dialect.escape", "data.dialect.encoding",
    "perception.caption_prompt", "evaluation.few_shot.model",
}  # fmt: skip
"""Fields of text that name nothing outside of the recipe."""


def test_every_field_of_text_is_known_to_name_something_outside_or_not() -> None:
    texts = dict(texts_of(Recipe))
    marked = {name for name, marks in texts.items() if any(isinstance(m, Names) for m in marks)}
    assert marked | WORDS == set(texts)
    assert not marked & WORDS


def test_recipes_of_the_package_ask_for_models_of_known_publishers_alone() -> None:
    publishers = ("CompVis", "openai", "stabilityai", "huggyllama", "IDEA-Research", "llava-hf")
    hub = Policy(models=tuple(f"hub:{name}/" for name in publishers))
    for name in recipe_names():
        assert [str(each) for each in hub.refusals(load_recipe(name), STORE)] == []


@pytest.mark.parametrize("root", ["/data", "s3://b/p", "https://h.example/p"])
@pytest.mark.parametrize("way_out", ["/..", "/../x", "/x/../../y", "-2/x"])
def test_nothing_climbs_out_of_a_root(root: str, way_out: str) -> None:
    assert not is_below(root + way_out, [root])
    assert is_below(f"{root}/x/y", [root])
    assert is_below(f"{root}/x/y", [f"{root}/"])
