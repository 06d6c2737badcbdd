"""Which test shows which trap and which acceptance check of the specification of detection (detection.md, sections 9
and 10; D of detectors, T of generative attention): a list that cannot name a test that is not there."""

import ast
from functools import cache

import pytest

from conftest import REPOSITORY

LOSSES, DETECTOR = "tasks/test_detection_losses", "models/test_detector"
ATTENTION, CONTRAST = "models/test_detector_attention", "tasks/test_boundary_contrast"
SEGMENTS, GENERATIVE = "data_prep/test_segments", "test_generative_training"
TRAPS = {
    "D1": [f"{ATTENTION}::test_d1_the_target_of_prior_is_the_features_themselves"],
    "D2": [f"{ATTENTION}::test_d2_a_constant_lam_does_not_starve_the_group_norm"],
    "D3": [f"{LOSSES}::test_d3_soft_nms_of_one_box_is_that_box"],
    "D4": ["test_training::test_d4_batch_statistics_that_nothing_taught_are_not_frozen"],
    "D5": [
        f"{LOSSES}::test_d5_of_equally_long_actions_the_first_takes_it",
        f"{SEGMENTS}::test_d5_two_labels_of_one_segment",
        "tasks/test_detection::test_two_labels_of_one_segment_come_in_the_order_of_the_classes",
    ],
    "D6": [f"{SEGMENTS}::test_d6_times_are_seconds"],
    "D7": [f"{SEGMENTS}::test_d7_actions_after_the_end_are_never_trained_on"],
    "D8": ["data/test_clips::test_d8_short_videos_loop_or_hold_in_training_and_evaluation_alike"],
    "D9": [
        f"{CONTRAST}::test_d9_what_is_moved_is_background_and_the_parts_are_the_action",
        f"{CONTRAST}::test_d9_each_clip_has_a_flag_of_its_own",
    ],
    "D10": [f"{LOSSES}::test_d10_the_target_of_quality_is_detached"],
    "D11": [f"{LOSSES}::test_d11_too_coarse_segments_are_background_to_the_refined_class"],
    "D12": [f"{LOSSES}::test_d12_a_narrow_boundary_comes_to_the_finest_level"],
    "D13": ["data_prep/test_prepare::test_d13_a_header_with_more_frames_than_are_shown"],
    "D14": ["test_shipped_configs::test_d14_it_trains_a_step_and_evaluates"],
    "T3": [f"{GENERATIVE}::test_t3_the_cvaes_turn_moves_no_batch_statistics"],
    "T4": [f"{GENERATIVE}::test_t4_what_is_frozen_stays_frozen_through_all_turns"],
    "T5": ["test_methods_generative::test_t5_equal_cvaes_agree_exactly_under_shared_noise"],
    "T7": ["data_prep/test_flow::test_mirrored_flow_goes_the_other_way"],
    "T9": [f"{GENERATIVE}::test_t9_crops_differ_between_epochs_and_repeat_under_one_seed"],
}
CHECKS = {
    1: [
        "test_annotations::test_counts_of_the_thumos14_lists",
        "test_annotations::test_counts_of_the_thumos14_json",
        f"{SEGMENTS}::test_reading_at_ten_frames_a_second_gives_the_official_counts",
        f"{SEGMENTS}::test_windows_of_thumos14",
    ],
    2: [
        f"{DETECTOR}::test_sizes_are_the_published_ones",
        f"{LOSSES}::test_locations_of_the_published_pyramid",
        f"{ATTENTION}::test_of_the_heads",
        f"{ATTENTION}::test_of_the_cvaes",
        f"{ATTENTION}::test_of_the_whole",
    ],
    3: [
        f"{DETECTOR}::test_pooling_by_hand",
        f"{DETECTOR}::test_pooling_is_the_slow_reference_with_its_gradient",
    ],
    4: [f"{CONTRAST}::test_background_of_all_zero_logits"],
    5: [
        "test_average_precision::test_the_truth_as_detections_is_perfect",
        "test_average_precision::test_the_toy_of_the_specification",
    ],
    6: [f"{LOSSES}::test_d3_soft_nms_of_one_box_is_that_box", f"{LOSSES}::test_soft_nms_by_hand"],
    7: [
        f"{DETECTOR}::test_a_batch_is_its_clips",
        f"{ATTENTION}::test_a_batch_is_its_clips",
        f"{LOSSES}::test_one_batch_is_learned_by_heart",
    ],
}


@cache
def found_in(name):
    tree = ast.parse((REPOSITORY / "tests" / f"{name}.py").read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"}


@pytest.mark.parametrize(("what", "shown_by"), [*TRAPS.items(), *CHECKS.items()], ids=str)
def test_it_is_shown(what, shown_by):
    for path in shown_by:
        name, _, test = path.partition("::")
        assert test in found_in(name), f"{what}: {path}"


def test_none_is_forgotten():
    assert set(TRAPS) >= {f"D{i}" for i in range(1, 15)} and set(CHECKS) == set(range(1, 8))
