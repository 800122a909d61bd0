"""Batched inference of Llama-family GGUF models; an answer never depends on the batch it is in.

    import herd
    model = herd.Model("model.gguf")
    for answer in model.generate(["Once upon a time", "The capital of France is"]):
        print(answer.text)
"""

from ._error import Error
from ._herd import version as __version__
from ._model import Completion, Event, Logprob, Model, Prompt, Score, Stream

__all__ = ["Completion", "Error", "Event", "Logprob", "Model", "Prompt", "Score", "Stream", "__version__"]
