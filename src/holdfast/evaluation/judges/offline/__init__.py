"""The offline refusal judge: rules and a small trained model over prompt and response together, no network."""

from holdfast.evaluation.judges.offline.judge import RefusalJudge

__all__ = ["RefusalJudge"]
