# SPDX-License-Identifier: Apache-2.0
# Read by ctest after all tests are known: which start first, and which take other slots than their file's (see
# discover.cmake). lint.schedule finds names that are no test's.

# Seconds on two cores, of those that need a quarter of a minute and more: a long test that starts last runs alone. ctest's
# own measurements do not exist in a fresh clone.
foreach(cost IN ITEMS
    "peer.commands.subject_is_the_workers 60"
    "crash.receive.dies_at_every_file_call 90" "crash.commitment.receiver_dies_at_every_file_call 90"
    "peer.contained.killed_reader_costs_one_series 60" "peer.contained.broken_reader_costs_one_series 50"
    "peer.node.siemens_t1_sag_jpegll 50" "peer.node.siemens_t1_ax_jpegll 50" "peer.node.siemens_t2_ax_jpegll 50"
    "peer.node.siemens_flair_ax_jpegll 50" "peer.node.siemens_t1_sag 50" "peer.node.philips_t1_phantom 50"
    "peer.node.ge_pd_oblique_uneven 50"
    "peer.node.moved.siemens_t1_sag_jpegll 40" "peer.node.moved.siemens_t1_ax_jpegll 40"
    "peer.node.moved.siemens_t2_ax_jpegll 40" "peer.node.moved.siemens_flair_ax_jpegll 40"
    "peer.node.moved.siemens_t1_sag 40" "peer.node.moved.philips_t1_phantom 40" "peer.node.moved.ge_pd_oblique_uneven 40"
    "peer.node.moved.philips_t1_phantom_enhanced 40"
    "crash.receive.power_cut_large 50" "crash.receive.power_cut_at_every_call 50" "crash.node.killed_daemons_lose_nothing 50"
    "model.gpu.learning.cuda_on_host 45" "model.gpu.learning.cuda16_on_host 40" "model.gpu.chunks.cuda16_on_host 25"
    "unit.engine.budget_becomes_steps 50" "unit.engine.finetune_is_repeatable 40" "unit.engine.cancelled 20"
    "unit.worker.damaged_files_fail_the_job 40" "unit.worker.sleeper_spares_the_next 30"
    "peer.node.phantom_roundtrip 35" "unit.queue.late_slice_makes_a_new_series 35" "unit.queue.changed_bytes_are_a_conflict 25"
    "peer.viewer.faults 35" "crash.receive.killed_under_load 30"
    "peer.gather.late_image 25" "peer.gather.archive_says_complete 20" "peer.frames.composed_attributes 20"
    "unit.receive.full_disk_answers_a700 15" "peer.promise.no_answer 30" "peer.promise.without_commitment 25")
  string(REPLACE " " ";" cost "${cost}")
  list(GET cost 0 name)
  list(GET cost 1 seconds)
  set_tests_properties(${name} PROPERTIES COST ${seconds})
endforeach()

# These wait, in a file of tests that compute.
set_tests_properties(
  crash.receive.dies_at_every_file_call unit.receive.access_is_denied_by_default unit.receive.too_many_associations_are_rejected
  unit.receive.one_address_leaves_room_for_others
  unit.receive.bad_objects_get_their_status unit.receive.full_disk_answers_a700 unit.work.no_positions_are_refused
  unit.send.unknown_destination_is_told peer.contained.keys_of_another_user peer.contained.live_association
  PROPERTIES PROCESSORS 1)

# These measure how long something takes: beside one that waits at most, and first, as three slots are seldom free later.
set_tests_properties(
  unit.receive.silent_peer_delays_nobody peer.tls.hostile_peers_delay_nobody peer.commitment.large_request_delays_nobody
  peer.commitment.dead_target_delays_nobody unit.gather.starts_within_a_second unit.receive.two_hundred_associations
  unit.receive.hundred_thousand_objects
  PROPERTIES PROCESSORS 3 COST 400)

# These compute, in files of tests that wait.
set_tests_properties(
  peer.gather.late_image peer.tls.both_ways_accepted peer.tls.wrong_pacs_gets_nothing peer.tls.reload_of_sending
  PROPERTIES PROCESSORS 2)
