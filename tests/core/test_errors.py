"""What a message says about a wrong choice."""

from __future__ import annotations

from bridgejax.errors import choices


def test_a_short_list_of_choices_is_shown_whole_and_a_long_one_by_its_nearest():
    assert choices("sdg", ("sgd", "adamw")) == "did you mean 'sgd'? It can be 'sgd' or 'adamw'."
    assert choices("", ("sgd", "adamw", "lion")) == "use 'sgd', 'adamw' or 'lion'."
    names = [f"mixed_{number}" for number in range(40)]
    assert choices("mixd_7", names) == "did you mean 'mixed_7', 'mixed_37' or 'mixed_27'? There are 37 others."
    assert choices("xx", names).endswith(" or one of 37 others.")
    assert choices("anything", ()) == "there is nothing to choose from."
