"""What takes the place of vLLM's Triton kernels: the device's own, or plain PyTorch.

vLLM launches a kernel with the arguments that its Triton function names, so these functions have
the same names; `register` says which stands for which. None waits for the device: sizes that are
data stay on it, and masks do what a Triton program's early exit does.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from vllm.triton_utils.dispatcher import register_kernels

from torch_openreg import ops

_registered = False


def register() -> None:
    """Register the kernels below with vLLM, once in a process."""
    global _registered
    if _registered:
        return
    _registered = True
    rejection, drafting = "vllm.v1.sample.rejection_sampler", "vllm.v1.spec_decode.utils"
    with warnings.catch_warnings():  # the search for references touches deprecated names
        warnings.simplefilter("ignore")
        register_kernels(
            {
                "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel": compute_slot_mapping,
                f"{rejection}.rejection_greedy_sample_kernel": rejection_greedy_sample,
                f"{rejection}.rejection_random_sample_kernel": rejection_random_sample,
                f"{rejection}.expand_kernel": expand,
                f"{rejection}.sample_recovered_tokens_kernel": sample_recovered_tokens,
                f"{drafting}.eagle_step_slot_mapping_metadata_kernel": step_slot_mapping,
                f"{drafting}.eagle_prepare_inputs_padded_kernel": prepare_inputs,
                f"{drafting}.eagle_prepare_next_token_padded_kernel": prepare_next_token,
                f"{drafting}.copy_and_expand_eagle_inputs_kernel": copy_and_expand_inputs,
            }
        )


def compute_slot_mapping(
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc_ptr: Tensor,
    positions_ptr: Tensor,
    block_table_ptr: Tensor,
    block_table_stride: int,
    slot_mapping_ptr: Tensor,
    KV_CACHE_BLOCK_SIZE: int,
    TOTAL_CP_WORLD_SIZE: int,
    TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int,
    BLOCK_SIZE: int,
) -> None:
    """Slots of all tokens in the KV cache; PAD_ID from `num_tokens` on."""
    if TOTAL_CP_WORLD_SIZE != 1:
        raise ValueError("decode_context_parallel_size: openreg serves 1 only")
    ops.slot_mapping(
        query_start_loc_ptr,
        positions_ptr,
        block_table_ptr,
        KV_CACHE_BLOCK_SIZE,
        out=slot_mapping_ptr[:max_num_tokens],
    )


def rejection_greedy_sample(
    output_token_ids_ptr: Tensor,
    cu_num_draft_tokens_ptr: Tensor,
    draft_token_ids_ptr: Tensor,
    target_argmax_ptr: Tensor,
    bonus_token_ids_ptr: Tensor,
    is_greedy_ptr: Tensor | None,
    max_spec_len: int,
    uniform_probs_ptr: Tensor | None,
    synthetic_conditional_rates_ptr: Tensor | None,
    SYNTHETIC_MODE: bool,
) -> None:
    """Keep drafted tokens [tokens] as long as the model would have chosen them itself."""
    target = target_argmax_ptr.to(draft_token_ids_ptr.dtype)
    if SYNTHETIC_MODE:
        accepted = _synthetic(
            cu_num_draft_tokens_ptr,
            draft_token_ids_ptr,
            uniform_probs_ptr,
            synthetic_conditional_rates_ptr,
        )
        target = torch.where(accepted, draft_token_ids_ptr, target)
    else:
        accepted = draft_token_ids_ptr == target
    _write_accepted(
        output_token_ids_ptr,
        cu_num_draft_tokens_ptr,
        accepted,
        target,
        bonus_token_ids_ptr,
        is_greedy_ptr,
    )


def rejection_random_sample(
    output_token_ids_ptr: Tensor,
    cu_num_draft_tokens_ptr: Tensor,
    draft_token_ids_ptr: Tensor,
    draft_probs_ptr: Tensor | None,
    target_probs_ptr: Tensor,
    bonus_token_ids_ptr: Tensor,
    recovered_token_ids_ptr: Tensor,
    uniform_probs_ptr: Tensor,
    is_greedy_ptr: Tensor,
    max_spec_len: int,
    vocab_size: int,
    synthetic_conditional_rates_ptr: Tensor | None,
    NO_DRAFT_PROBS: bool,
    SYNTHETIC_MODE: bool,
) -> None:
    """Keep drafted tokens with probability target / draft; after a rejection, the recovered one."""
    draft = draft_token_ids_ptr
    if SYNTHETIC_MODE:
        accepted = _synthetic(
            cu_num_draft_tokens_ptr, draft, uniform_probs_ptr, synthetic_conditional_rates_ptr
        )
    else:
        at = draft.long().clamp(min=0).unsqueeze(1)
        ratio = target_probs_ptr.gather(1, at).squeeze(1)
        accepted = draft >= 0  # -1 pads
        if not NO_DRAFT_PROBS:
            drafted = draft_probs_ptr.gather(1, at).squeeze(1)
            ratio = ratio / drafted
            accepted = accepted & (drafted > 0)
        accepted = accepted & (ratio >= uniform_probs_ptr)
    _write_accepted(
        output_token_ids_ptr,
        cu_num_draft_tokens_ptr,
        accepted,
        torch.where(accepted, draft, recovered_token_ids_ptr.to(draft.dtype)),
        bonus_token_ids_ptr,
        ~is_greedy_ptr,
    )


def _synthetic(cumulative: Tensor, draft: Tensor, uniform: Tensor, rates: Tensor) -> Tensor:
    """Whether each drafted token is kept, at given rates for the places of a request."""
    place = torch.arange(draft.shape[0], device=draft.device)
    row = _rows(cumulative, draft.shape[0])
    start = torch.nn.functional.pad(cumulative, (1, 0))[row]
    return (draft >= 0) & (uniform < rates[(place - start).clamp(max=rates.shape[0] - 1)])


def _write_accepted(
    output: Tensor,
    cumulative: Tensor,
    accepted: Tensor,
    tokens: Tensor,
    bonus: Tensor,
    chosen: Tensor | None,
) -> None:
    """Write each request's tokens up to the first that is not accepted, or all and the bonus.

    Args:
        output: [requests, longest draft + 1].
        cumulative: [requests], drafted tokens of this request and those before.
        accepted, tokens: [drafted tokens].
        bonus: [requests] or [requests, 1].
        chosen: [requests], which rows to write; None: all.
    """
    count = cumulative.diff(prepend=cumulative.new_zeros(1)).unsqueeze(1)
    places = torch.arange(output.shape[1], device=output.device)
    accepted, tokens = (torch.nn.functional.pad(t, (0, 1)) for t in (accepted, tokens))
    index = (cumulative.unsqueeze(1) - count + places).clamp(max=tokens.shape[0] - 1)
    drafted = places < count
    leading = (accepted[index] & drafted).int().cumprod(1).sum(1, keepdim=True)
    write = drafted & (places <= leading)
    is_bonus = (places == count) & (leading == count)
    if chosen is not None:
        write, is_bonus = write & chosen.unsqueeze(1), is_bonus & chosen.unsqueeze(1)
    values = torch.where(is_bonus, bonus.reshape(-1, 1).to(tokens.dtype), tokens[index])
    output.copy_(torch.where(write | is_bonus, values.to(output.dtype), output))


def expand(
    output_ptr: Tensor,
    input_ptr: Tensor,
    cu_num_tokens_ptr: Tensor,
    replace_from: int,
    replace_to: int,
    MAX_NUM_TOKENS: int,
) -> None:
    """Repeat the value of each request [requests] for its tokens [tokens]."""
    values = torch.where(input_ptr == replace_from, replace_to, input_ptr)
    output_ptr.copy_(values[_rows(cu_num_tokens_ptr, output_ptr.shape[0])])


def _rows(cumulative: Tensor, tokens: int) -> Tensor:
    """The request [tokens] of each token, given where the requests end [requests]."""
    place = torch.arange(tokens, device=cumulative.device, dtype=cumulative.dtype)
    rows = torch.searchsorted(cumulative, place, right=True)
    return rows.clamp(max=cumulative.shape[0] - 1)


def sample_recovered_tokens(
    output_token_ids_ptr: Tensor,
    cu_num_draft_tokens_ptr: Tensor,
    draft_token_ids_ptr: Tensor,
    draft_probs_ptr: Tensor | None,
    target_probs_ptr: Tensor,
    inv_q_ptr: Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
    NO_DRAFT_PROBS: bool,
    USE_FP64_GUMBEL: bool,
) -> None:
    """Draw for each drafted token [tokens] the one to take should it be rejected."""
    if NO_DRAFT_PROBS:
        at = draft_token_ids_ptr.long().clamp(min=0).unsqueeze(1)
        probabilities = target_probs_ptr.scatter(1, at, 0.0)
    else:
        probabilities = (target_probs_ptr - draft_probs_ptr).clamp(min=0.0)
    rows = _rows(cu_num_draft_tokens_ptr, draft_token_ids_ptr.shape[0])
    output_token_ids_ptr.copy_((probabilities * inv_q_ptr[rows]).argmax(1))


def step_slot_mapping(
    positions_ptr: Tensor,
    block_table_ptr: Tensor,
    block_table_stride: int,
    seq_lens_ptr: Tensor,
    out_clamped_positions_ptr: Tensor,
    out_slot_mapping_ptr: Tensor,
    block_size: int,
    max_model_len: int,
    n_blocks_per_req: int,
    PAD_ID: int,
    batch_size: int,
) -> None:
    """Advance each sequence by a drafted token: its position, slot and length."""
    position = positions_ptr[:batch_size] + 1
    beyond = position >= max_model_len
    position = position.masked_fill(beyond, 0)
    block = (position // block_size).clamp(max=n_blocks_per_req - 1)
    slot = block_table_ptr[:batch_size].gather(1, block.long().unsqueeze(1)).squeeze(1).long()
    slot = slot * block_size + position % block_size
    out_slot_mapping_ptr[:batch_size].copy_(slot.masked_fill(beyond, PAD_ID))
    out_slot_mapping_ptr[batch_size:].fill_(PAD_ID)
    lengths = seq_lens_ptr[:batch_size]
    lengths.copy_((lengths + 1).masked_fill(beyond, 1).clamp(max=max_model_len))
    out_clamped_positions_ptr[:batch_size].copy_(position)


def prepare_inputs(
    cu_num_draft_tokens_ptr: Tensor,
    valid_sampled_tokens_count_ptr: Tensor,
    query_start_loc_gpu_ptr: Tensor,
    token_indices_to_sample_ptr: Tensor,
    num_rejected_tokens_gpu_ptr: Tensor,
    num_reqs: int,
) -> None:
    """Where each request's next draft begins, and how many of its last one were rejected."""
    cumulative = cu_num_draft_tokens_ptr[:num_reqs]
    drafted = cumulative.diff(prepend=cumulative.new_zeros(1))
    rejected = drafted + 1 - valid_sampled_tokens_count_ptr[:num_reqs]
    rejected = rejected.masked_fill(drafted <= 0, 0)
    last = query_start_loc_gpu_ptr[1 : num_reqs + 1] - 1
    token_indices_to_sample_ptr[:num_reqs].copy_(last - rejected)
    num_rejected_tokens_gpu_ptr[:num_reqs].copy_(rejected)


def prepare_next_token(
    sampled_token_ids_ptr: Tensor,
    discard_request_mask_ptr: Tensor,
    backup_next_token_ids_ptr: Tensor,
    next_token_ids_ptr: Tensor,
    valid_sampled_tokens_count_ptr: Tensor,
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
    stride_sampled_token_ids: int,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """The last valid token of each request's sampled ones, else its backup; how many are valid."""
    sampled = sampled_token_ids_ptr[:num_reqs, :num_sampled_tokens_per_req]
    valid = (sampled != -1) & (sampled < vocab_size)
    valid = valid & ~discard_request_mask_ptr[:num_reqs].unsqueeze(1)
    places = torch.arange(sampled.shape[1], device=sampled.device)
    last = torch.where(valid, places, -1).amax(1, keepdim=True)
    token = sampled.gather(1, last.clamp(min=0)).squeeze(1)
    backup = backup_next_token_ids_ptr[:num_reqs].to(token.dtype)
    next_token_ids_ptr[:num_reqs].copy_(torch.where(last.squeeze(1) >= 0, token, backup))
    valid_sampled_tokens_count_ptr[:num_reqs].copy_(valid.sum(1))


def copy_and_expand_inputs(
    target_token_ids_ptr: Tensor,
    target_positions_ptr: Tensor,
    next_token_ids_ptr: Tensor,
    out_input_ids_ptr: Tensor,
    out_positions_ptr: Tensor,
    out_is_rejected_token_mask_ptr: Tensor,
    out_is_masked_token_mask_ptr: Tensor,
    out_new_token_indices_ptr: Tensor,
    out_hidden_state_mapping_ptr: Tensor,
    query_start_loc_ptr: Tensor,
    query_end_loc_ptr: Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Lay out the drafter's batch: each request's tokens, the next one, and room for drafts.

    A request's part of the output is: its valid tokens (without the first if shifted), the next
    token, slots for tokens drafted in parallel, and as many to ignore as were rejected.
    """
    shift, slots = int(shift_input_ids), num_padding_slots_per_request
    requests = query_end_loc_ptr.shape[0]
    start = query_start_loc_ptr[:requests].long()
    valid = query_end_loc_ptr.long() - start + 1 - shift
    begin = start + torch.arange(requests, device=start.device) * (slots - shift)
    total = total_input_tokens + requests * (slots - shift)
    place = torch.arange(total, device=start.device)
    row = torch.searchsorted(begin, place, right=True) - 1
    j = place - begin[row]
    source = (start[row] + shift + j).clamp(max=total_input_tokens - 1)
    is_new = (j >= valid[row]) & (j < valid[row] + slots)
    is_parallel = is_new & (j > valid[row])
    is_rejected = j >= valid[row] + slots
    tokens = torch.where(j == valid[row], next_token_ids_ptr[row], target_token_ids_ptr[source])
    tokens = tokens.masked_fill(is_parallel, parallel_drafting_token_id)
    tokens = tokens.masked_fill(is_rejected, padding_token_id)
    positions = (target_positions_ptr[start][row] + j).masked_fill(is_rejected, 0)
    out_input_ids_ptr[:total].copy_(tokens)
    out_positions_ptr[:total].copy_(positions)
    out_is_rejected_token_mask_ptr[:total].copy_(is_rejected)
    out_is_masked_token_mask_ptr[:total].copy_(is_parallel)
    new = (begin + valid).unsqueeze(1) + torch.arange(slots, device=start.device)
    out_new_token_indices_ptr[: requests * slots].copy_(new.flatten())
    if shift_input_ids:
        into = torch.arange(total_input_tokens, device=start.device)
        request = torch.searchsorted(start, into, right=True) - 1
        out_hidden_state_mapping_ptr[:total_input_tokens].copy_(
            into - start[request] + begin[request]
        )
