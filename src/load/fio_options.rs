//! The options that fio knows and the load generator does not honour. They get a warning, not an error, so that a
//! job file written for fio can be tried as it is.

/// True when fio has an option of this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    NOT_HONOURED.split_ascii_whitespace().any(|known| known == name)
}

const NOT_HONOURED: &str = "
allow_file_create allow_mounted_write allrandrepeat atomic ba block_error_percentiles blockalign blocksize_range
blocksize_unaligned bs_unaligned bsrange buffer_compress_chunk buffer_pattern buffered
bwavgtime cgroup cgroup_nodelete cgroup_weight clat_percentiles clientname clocksource cmd_type continue_on_error
cpuchunks cpuload cpumask cpus_allowed cpus_allowed_policy create_fsync create_on_open create_only
create_serialize dedupe_global dedupe_mode dedupe_percentage dedupe_working_set_percentage direct directory
disable_bw_measurement disable_clat disable_lat disable_slat disk_util do_verify end_fsync error_dump exec_postrun
exec_prerun exit_what exitall exitall_on_error experimental_verify fadvise_hint fallocate file_append
file_service_type filename filename_format filesize fill_device fixedbufs flow flow_id flow_sleep fsync_on_close
gid gtod_cpu gtod_reduce hipri hostname hugepage-size ignore_error ignore_zone_limits invalidate io_limit io_size
io_submit_mode iodepth_batch iodepth_batch_complete_max iodepth_batch_complete_min iodepth_batch_submit
iodepth_low ioengine iomem iopsavgtime ioscheduler job_max_open_zones kb_base lat_percentiles latency_percentile
latency_run latency_target latency_window lockfile lockmem log_alternate_epoch log_alternate_epoch_clock_id
log_avg_msec log_compression log_compression_cpus log_entries log_hist_coarseness log_hist_msec log_max_value
log_offset log_prio log_store_compressed log_unix_epoch loops max_latency max_open_zones mem merge_blktrace_file
merge_blktrace_iters merge_blktrace_scalars name new_group nice nodelay nonvectored nowait nrfiles ns
numa_cpu_nodes numa_mem_policy offset offset_align offset_increment opendir openfiles overwrite per_job_logs
percentage_random pool port pre_read prio prioclass profile protocol random_generator randrepeat rate rate_cycle
rate_ignore_thinktime rate_iops_min rate_min rate_process rbdname read_beyond_wp read_iolog read_iolog_chunked
refill_buffers registerfiles replay_align replay_no_stall replay_redirect replay_scale replay_skip
replay_time_scale rw_sequencer scramble_buffers serialize_overlap significant_figures slat_percentiles
softrandommap sqthread_poll sqthread_poll_cpu start_delay startdelay stats steadystate steadystate_duration
steadystate_ramp_time sync sync_file_range thinktime_blocks thinktime_blocks_type thinktime_iotime thinktime_spin
thread trim_backlog trim_backlog_batch trim_percentage trim_verify_zero uid uncached unified_rw_reporting
unique_filename unit_base unlink unlink_each_loop userspace_reap verb verify_async verify_backlog
verify_backlog_batch verify_dump verify_fatal verify_header_seed verify_interval verify_offset verify_only
verify_pattern verify_state_load verify_state_save verifysort verifysort_nr wait_for write_barrier write_bw_log
write_hint write_hist_log write_iolog write_iops_log write_lat_log zero_buffers zone_reset_frequency
zone_reset_threshold zonecapacity zonemode zonerange zonesize zoneskip
";
