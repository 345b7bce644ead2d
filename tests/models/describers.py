"""Tiny image-text-to-text models of five families with random weights, saved as the ordinary folders that `from_pretrained` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.models.tiny import word_tokenizer

CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ ' ' + part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
)
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LANGUAGE = TOWER | {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512}


def words(*special: str, end: bool = False) -> Any:
    """The word tokenizer of other tiny models, with more special tokens; the first of them stands for a picture."""
    tokenizer = word_tokenizer(end=end, limit=512)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def finished(net: Any, folder: Path, tokenizer: Any, pictures: Any, **settings: Any) -> Path:
    """Weights so large that words differ, and what lies beside them."""
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    if settings:
        (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def save_paligemma(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = words("<image>")
    size = len(tokenizer) + 1152  # places and segments, which the processor adds
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            **TOWER,
            "image_size": 16,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={"model_type": "gemma", **LANGUAGE, "vocab_size": size, **ids},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=16,
        hidden_size=16,
        vocab_size=size,
        **ids,
    )
    pictures = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    pictures.image_seq_length = 4
    return finished(transformers.PaliGemmaForConditionalGeneration(config), folder, tokenizer, pictures)


def save_blip2(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = words("<image>")
    config = transformers.Blip2Config(
        vision_config={**TOWER, "image_size": 16, "patch_size": 8},
        qformer_config={**TOWER, "vocab_size": 8, "encoder_hidden_size": 16},
        text_config={
            "model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(tokenizer),
            "word_embed_proj_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
        },
        num_query_tokens=3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pictures = transformers.BlipImageProcessorPil(size={"height": 16, "width": 16})
    net = transformers.Blip2ForConditionalGeneration(config)
    return finished(net, folder, tokenizer, pictures, processor_class="Blip2Processor", num_query_tokens=3)


def save_florence2(folder: Path) -> Path:
    torch.manual_seed(0)
    plain = words("<image>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<start>", eos_token="<end>",
        model_max_length=256, extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    config = transformers.Florence2Config(
        vision_config={
            "depths": [1], "patch_size": [4], "patch_stride": [4], "patch_padding": [0], "patch_prenorm": [False], "embed_dim": [16],
            "num_heads": [2], "num_groups": [2], "window_size": 2, "projection_dim": 16, "drop_path_rate": 0.0,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3,
            "forced_eos_token_id": None,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    pictures = transformers.CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)
    pictures.image_seq_length = 17
    net = transformers.Florence2ForConditionalGeneration(config)
    return finished(net, folder, tokenizer, pictures)


def save_qwen2_vl(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = words("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    of = tokenizer.convert_tokens_to_ids
    config = transformers.Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2},
        text_config={
            **LANGUAGE, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        image_token_id=of("<|image_pad|>"), video_token_id=of("<|video_pad|>"), vision_start_token_id=of("<|vision_start|>"),
        vision_end_token_id=of("<|vision_end|>"),
    )  # fmt: skip
    pictures = transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": 64, "longest_edge": 16 * 16}, patch_size=4, merge_size=2
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return finished(transformers.Qwen2VLForConditionalGeneration(config), folder, tokenizer, pictures)


def save_idefics3(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = words("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    config = transformers.Idefics3Config(
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        text_config={
            "model_type": "llama", **LANGUAGE, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )  # fmt: skip
    pictures = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    tokenizer.chat_template = CHAT.replace("IMAGE", "<image>")
    net = transformers.Idefics3ForConditionalGeneration(config)
    return finished(net, folder, tokenizer, pictures, processor_class="Idefics3Processor", image_seq_len=4)


DESCRIBERS: dict[str, Callable[[Path], Path]] = {
    "paligemma": save_paligemma,
    "blip-2": save_blip2,
    "florence2": save_florence2,
    "qwen2_vl": save_qwen2_vl,
    "idefics3": save_idefics3,
}
