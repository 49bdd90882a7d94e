"""The Hub's configurations of BridgeTower."""

from pathlib import Path

REAL = {
    path.name.split("__")[1].removeprefix("bridgetower-"): path
    for path in sorted((Path(__file__).parents[1] / "hub_configs").glob("BridgeTower__*__config.json"))
    if "preprocessor" not in path.name
}
