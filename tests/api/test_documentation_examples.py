"""The examples of transformers' documentation run with only the import and the model's name changed: "demo" and
"demo-bridgetower".

Where an example downloads a photograph, a toy picture is opened instead: nothing is downloaded in a test.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minivl import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BridgeTowerConfig,
    BridgeTowerForContrastiveLearning,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    BridgeTowerModel,
    BridgeTowerProcessor,
    BridgeTowerTextConfig,
)
from minivl.config.blip2 import OPTConfig

PICTURE = "tutorials/pictures/red_circle.png"
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture(scope="module")
def processor():
    return Blip2Processor.from_pretrained("demo")


@pytest.fixture(scope="module")
def model():
    return Blip2ForConditionalGeneration.from_pretrained("demo", torch_dtype=torch.float16)


def test_caption(processor, model):
    device = "cpu"
    image = Image.open(PICTURE)
    inputs = processor(images=image, return_tensors="pt").to(device, torch.float16)
    generated_ids = model.generate(**inputs)
    generated_text = processor.batch_decode(generated_ids, skip_special_tokens=True)[0].strip()
    assert generated_text.startswith("a ") and "red circle" in generated_text
    assert isinstance(generated_ids, np.ndarray) and generated_ids.dtype == np.int64


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_question(processor, model, kind):
    image = Image.open(PICTURE)
    prompt = "Question: what color is the circle? Answer:"
    inputs = processor(images=image, text=prompt, return_tensors=kind).to("cpu")
    generated_ids = model.generate(**inputs)
    assert processor.batch_decode(generated_ids, skip_special_tokens=True)[0].strip() == "red"


def test_several_questions_at_once(processor, model):
    image = Image.open(PICTURE)
    prompts = ["Question: what color is the circle? Answer:", "Question: how many shapes are there? Answer:"]
    inputs = processor(images=[image, image], text=prompts, padding=True, return_tensors="np")
    answers = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert [answer.strip() for answer in answers] == ["red", "one"]


def test_question_to_a_model_in_8_bits():
    device = "cpu"
    processor = Blip2Processor.from_pretrained("demo")
    model = Blip2ForConditionalGeneration.from_pretrained(
        "demo", load_in_8bit=True, device_map={"": 0}, torch_dtype=torch.float16
    )
    image = Image.open(PICTURE)
    inputs = processor(images=image, return_tensors="pt").to(device, torch.float16)
    generated_ids = model.generate(**inputs)
    assert "red circle" in processor.batch_decode(generated_ids, skip_special_tokens=True)[0].strip()
    prompt = "Question: what color is the circle? Answer:"
    inputs = processor(images=image, text=prompt, return_tensors="pt").to(device="cpu", dtype=torch.float16)
    generated_ids = model.generate(**inputs)
    assert processor.batch_decode(generated_ids, skip_special_tokens=True)[0].strip() == "red"


def test_forward_with_labels(processor, model):
    inputs = processor(images=Image.open(PICTURE), text="a red circle", return_tensors="np")
    outputs = model(**inputs, labels=inputs.input_ids)
    assert 0 < outputs.loss.item() < 20
    assert outputs.logits.shape[:2] == inputs.input_ids.shape


def test_configurations():
    configuration = Blip2Config()
    assert configuration.vision_config == Blip2VisionConfig()
    vision_config, qformer_config = Blip2VisionConfig(**SMALL, image_size=28), Blip2QFormerConfig(**SMALL)
    text_config = OPTConfig(**SMALL, vocab_size=30)
    config = Blip2Config.from_vision_qformer_text_configs(vision_config, qformer_config, text_config)
    model = Blip2ForConditionalGeneration(config)
    assert model.config.text_config.hidden_size == 16


# ---- BridgeTower -----------------------------------------------------------------------------------------------------
TEXTS = ["a small blue star", "a small red circle"]
KINDS = pytest.mark.parametrize("kind", ["np", "pt"])


@pytest.fixture(scope="module")
def reader():
    return BridgeTowerProcessor.from_pretrained("demo-bridgetower")


@KINDS
def test_bridgetower(reader, kind):
    model = BridgeTowerModel.from_pretrained("demo-bridgetower")
    inputs = reader(Image.open(PICTURE), "hello world", return_tensors=kind)
    outputs = model(**inputs)
    assert list(outputs.keys()) == ["text_features", "image_features", "pooler_output"]


@KINDS
def test_contrast_of_several_texts(reader, kind):
    model = BridgeTowerForContrastiveLearning.from_pretrained("demo-bridgetower")
    image, scores = Image.open(PICTURE), {}
    for text in TEXTS:
        encoding = reader(image, text, return_tensors=kind)
        outputs = model(**encoding)
        scores[text] = outputs
    wrong, right = (scores[text].text_embeds[0] @ scores[text].image_embeds[0] for text in TEXTS)
    assert right > wrong and scores[TEXTS[0]].logits.shape[:2] == (1, 3)


@KINDS
def test_matching_of_several_texts(reader, kind):
    model = BridgeTowerForImageAndTextRetrieval.from_pretrained("demo-bridgetower")
    image, scores = Image.open(PICTURE), {}
    for text in TEXTS:
        encoding = reader(image, text, return_tensors=kind)
        outputs = model(**encoding)
        scores[text] = outputs.logits[0, 1].item()
    assert scores[TEXTS[1]] > scores[TEXTS[0]]


@KINDS
def test_masked_words(reader, kind):
    model = BridgeTowerForMaskedLM.from_pretrained("demo-bridgetower")
    encoding = reader(Image.open(PICTURE), "a small <mask> circle", return_tensors=kind)
    outputs = model(**encoding)
    results = reader.decode(outputs.logits.argmax(axis=-1).squeeze(0).tolist())
    assert "red" in results


def test_masked_words_on_torch(reader):
    model = BridgeTowerForMaskedLM.from_pretrained("demo-bridgetower", backend="torch")
    encoding = reader(Image.open(PICTURE), "a small <mask> circle", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**encoding)
    results = reader.decode(outputs.logits.argmax(dim=-1).squeeze(0).tolist())
    assert "red" in results


def test_bridgetower_configurations():
    configuration = BridgeTowerConfig()
    assert configuration.text_config == BridgeTowerTextConfig()
    text = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    vision = dict(hidden_size=64, num_hidden_layers=2, image_size=16, patch_size=8)
    small = BridgeTowerConfig(hidden_size=16, num_hidden_layers=2, text_config=text, vision_config=vision)
    assert BridgeTowerModel(small).config.text_config.hidden_size == 16


# ---- our own pages ---------------------------------------------------------------------------------------------------
PAGES = ["README.md", "kernels/README.md", *sorted(map(str, Path("minivl/demo").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_our_own_pages_runs_and_prints_what_it_says(page, capsys):
    """`# red` behind a print is what it prints; `# prints: x, ...` is how its output begins."""
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", Path(page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), names)
        out = capsys.readouterr().out
        assert [*re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)] in ([], out.splitlines())
        for start in re.findall(r"# prints: (.*), \.\.\.$", block, re.MULTILINE):
            assert out.startswith(start)
