"""Optuna behind JSON lines: {"ask": true} -> a config; {"tell": rate or null} for the last one asked."""
import json
import sys
import warnings

import optuna

warnings.filterwarnings("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
setup = json.loads(sys.stdin.readline())
samplers = {"TPE": optuna.samplers.TPESampler, "GPSampler": getattr(optuna.samplers, "GPSampler", None)}
study = optuna.create_study(direction="maximize", sampler=samplers[setup["sampler"]](seed=setup["seed"]))
baseline = {p["name"]: setup["baseline"].get(p["name"]) for p in setup["parameters"]}
study.enqueue_trial({k: v for k, v in baseline.items() if v is not None})
trial = None


def suggest(t, p):
    if p["type"] == "int":
        return t.suggest_int(p["name"], p["low"], p["high"], step=p["step"], log=p["log"])
    if p["type"] == "float":
        return t.suggest_float(p["name"], p["low"], p["high"], step=p["step"], log=p["log"])
    return t.suggest_categorical(p["name"], p["values"])


for line in sys.stdin:
    message = json.loads(line)
    if "ask" in message:
        trial = study.ask()
        print(json.dumps({p["name"]: suggest(trial, p) for p in setup["parameters"]}), flush=True)
    elif message["tell"] is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, message["tell"])
