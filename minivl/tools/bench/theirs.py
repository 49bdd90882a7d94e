"""transformers' side of a whole process. Its text is given to `python -c`, so nothing of minivl is imported.

caption FOLDER PICTURE: load the model and caption a picture.   run JSON: load a folder, run it, tell what it took.
"""

import json
import sys
import time

start = time.perf_counter()


def caption(folder, picture):
    import torch
    from PIL import Image
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.inference_mode():
        ids = model.generate(**processor(images=Image.open(picture), return_tensors="pt"), max_new_tokens=40)
    print(" ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split()))


def run(given):
    import numpy
    import torch
    from transformers import Blip2ForConditionalGeneration

    kind = getattr(torch, given["dtype"])
    pixels = torch.from_numpy(numpy.load(given["pixels"])).to(kind)
    imported = time.perf_counter()
    model = Blip2ForConditionalGeneration.from_pretrained(given["folder"], dtype=kind).eval()
    marks = [start, imported, time.perf_counter()]
    model.config.image_token_index = given["image"]
    ids = torch.tensor([[given["image"]] * model.config.num_query_tokens + given["ids"]])
    with torch.inference_mode():
        if given["task"] == "forward":
            output = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
            marks.append(time.perf_counter())
        else:
            for count in (1, 1, 1 + given["new"]):
                lengths = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
                output = model.generate(pixel_values=pixels, input_ids=ids, **lengths)
                marks.append(time.perf_counter())
    numpy.save(given["output"], output.float().numpy())
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    print(json.dumps({"marks": marks, "weights": weights, **memory()}))


def memory():
    try:
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    except OSError:
        return {"peak": 0, "mapped": 0}
    return {name: int(lines[key].split()[0]) * 1024 for name, key in (("peak", "VmHWM"), ("mapped", "RssFile"))}


if __name__ == "__main__":
    caption(*sys.argv[2:]) if sys.argv[1] == "caption" else run(json.loads(sys.argv[2]))
