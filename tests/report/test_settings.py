from __future__ import annotations

from collections import Counter

import pytest

from tcl_train.report.settings import (
    NOT_SET,
    find_differences,
    label_of,
    order_of,
    settings_of,
)

NONE_TYPED: Counter[str] = Counter()


def keys_of(*many, typed=()):
    return find_differences(list(many), Counter(typed)).keys


def test_settings_are_flat_texts_without_what_is_not_compared():
    config = {
        "names": {"loss": "tcl"},
        "seed": 3,
        "k1": 5000.0,
        "supervised": True,
        "view_size": None,
        "loss": {"k1": 5000.0, "_target_": "x"},
        "data": {"workers": 4, "sampler": "shuffle"},
        "crop": {"scale": [0.5, 1.0]},
        "device": "cpu",
        "overrides": ["k1=5000"],
    }
    assert settings_of(config) == {
        "loss": "tcl",
        "k1": "5000",
        "supervised": "true",
        "view_size": "null",
        "loss.k1": "5000",
        "loss._target_": "x",
        "data.sampler": "shuffle",
        "crop.scale": "[0.5, 1.0]",
    }


def test_one_run_differs_from_nothing():
    differences = find_differences([{"loss": "tcl", "tau": "0.1"}], NONE_TYPED)
    assert (differences.keys, differences.following) == ((), ())
    assert differences.common == {"loss": "tcl", "tau": "0.1"}


def test_what_follows_from_a_choice_does_not_name_but_is_told():
    supcon = {"loss": "supcon", "lr": "0.1", "loss._target_": "a", "tau": "0.1", "loss.tau": "0.1"}
    tcl = {"loss": "tcl", "lr": "0.5", "loss._target_": "b", "tau": "0.2", "loss.tau": "0.2"}
    differences = find_differences([supcon, tcl], NONE_TYPED)
    assert differences.keys == ("loss",)
    assert set(differences.following) == {"lr", "tau"}


def test_a_key_that_only_some_have_differs_where_it_does():
    old, new = {"loss": "tcl"}, {"loss": "tcl", "k1_warmup_epochs": "0"}
    assert keys_of(old, new) == ()
    assert keys_of(old, new, new | {"k1_warmup_epochs": "5"}) == ("k1_warmup_epochs",)


def test_a_sweep_of_two_settings_is_named_by_both():
    many = [{"loss": "tcl", "k1": k1, "tau": tau} for k1 in "05" for tau in "12"]
    assert keys_of(*many, {"loss": "supcon", "tau": "1"}) == ("loss", "k1", "tau")


def test_a_method_names_where_it_decides_the_loss():
    byol = {"loss": "of_method", "method": "byol"}
    assert keys_of(byol, byol | {"method": "dino"}, {"loss": "ntxent", "method": "simclr"}) == (
        "method",
    )


def test_a_choice_is_not_replaced_by_a_setting_that_follows_from_it():
    many = [
        {"loss": "ntxent", "epochs": "1", "encoder.width": "16"},
        {"loss": "ntxent", "epochs": "1", "encoder.width": "32"},
        {"loss": "tcl", "epochs": "9", "encoder.width": "64"},
    ]
    assert keys_of(*many) == ("loss", "encoder.width")


def test_what_was_typed_names_before_what_was_not():
    many = [{"lr": value, "batch_size": value} for value in "12"]
    assert keys_of(*many, typed=["batch_size"]) == ("batch_size",)
    assert keys_of(*many, typed=["lr"]) == ("lr",)


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({}, "all runs"),
        ({"loss": "tcl", "k1": "5"}, "tcl k1=5"),
        ({"loss": "supcon", "k1": NOT_SET}, "supcon"),
        ({"k1": NOT_SET}, "all runs"),
        ({"loss": "of_method", "method": "byol"}, "byol"),
        ({"loss": "of_method"}, "of_method"),
    ],
)
def test_labels(values, label):
    assert label_of(values) == label


def test_values_are_ordered_by_size_and_words_come_last():
    values = ["tcl", "10", "9", "0.5", NOT_SET, "nan"]
    assert sorted(values, key=order_of) == [NOT_SET, "0.5", "9", "10", "nan", "tcl"]
