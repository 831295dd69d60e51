"""Makes `rayjob.schema.json` of KubeRay's CRD: names, types, enums and bounds of fields, each
repeated part once, no text.

    python reduce_crd.py ray.io_rayjobs.yaml VERSION > rayjob.schema.json

The CRD is ``helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml`` of
github.com/ray-project/kuberay (Apache-2.0) at the tag VERSION.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import yaml

KEPT: Final = ("type", "enum", "required", "minimum", "minItems")
LEAST: Final = 80
"""Characters of a part that is worth a name."""


def reduced(schema: dict[str, Any]) -> dict[str, Any]:
    """A part of the CRD as JSON schema; fields that it does not name are refused, as strict
    validation refuses them."""
    kept: dict[str, Any] = {key: schema[key] for key in KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        kept["type"] = ["integer", "string"]
    if "properties" in schema:
        kept["properties"] = {name: reduced(field) for name, field in schema["properties"].items()}
        kept["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = reduced(schema["additionalProperties"])
    if "items" in schema:
        kept["items"] = reduced(schema["items"])
    return kept


def shared(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with each repeated part once, under ``$defs``."""
    seen: Counter[str] = Counter()
    names: dict[str, str] = {}
    parts: dict[str, Any] = {}

    def count(part: Any) -> None:
        if isinstance(part, dict):
            seen[json.dumps(part, sort_keys=True)] += 1
            for inner in part.values():
                count(inner)

    def replaced(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        text = json.dumps(part, sort_keys=True)
        if seen[text] < 2 or len(text) < LEAST or not isinstance(part.get("type"), str):
            return {key: replaced(inner) for key, inner in part.items()}
        if text not in names:
            names[text] = f"part{len(names)}"
            parts[names[text]] = {key: replaced(inner) for key, inner in part.items()}
        return {"$ref": f"#/$defs/{names[text]}"}

    count(schema)
    return {**replaced(schema), "$defs": parts}


def main() -> None:
    """Write the schema to standard output."""
    path, version = sys.argv[1:]
    crd = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    served = next(each for each in crd["spec"]["versions"] if each["name"] == "v1")
    schema = shared(reduced(served["schema"]["openAPIV3Schema"]))
    source = f"Structure of ray.io/v1 RayJob from ray.io_rayjobs.yaml of KubeRay {version} (Apache-2.0), made by reduce_crd.py"
    head = json.dumps(
        {
            "$comment": source,
            **{key: part for key, part in schema.items() if key not in {"properties", "$defs"}},
        }
    )
    print(head[:-1] + ",")
    for key in ("properties", "$defs"):
        print(f'"{key}": {{')
        print(
            ",\n".join(
                f"{json.dumps(name)}: {json.dumps(part, separators=(',', ':'))}"
                for name, part in schema[key].items()
            )
        )
        print("}," if key == "properties" else "}}")


if __name__ == "__main__":
    main()
