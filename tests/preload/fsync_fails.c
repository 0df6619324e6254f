/* A disk that can't be synced any more, for one process that is started with this library in LD_PRELOAD.
 *
 *     FSYNC_FAILS_FOR    only files whose path contains this
 *     FSYNC_FAILS_FROM   the number of the first call that fails, 1 for all; 0: none by its number
 *     FSYNC_FAILS_WHEN   a file: while it exists, every call fails
 *     FSYNC_HANGS_WHEN   a file: while it exists, no call returns
 *
 * fsync, fdatasync and sync_file_range then fail with EIO, and sync nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long calls;

static int is_meant(int file) {
    const char *part = getenv("FSYNC_FAILS_FOR");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return part == NULL || strstr(path, part) != NULL;
}

static int fails(int file) {
    int error = errno;
    int result = 0;
    if (is_meant(file)) {
        const char *from = getenv("FSYNC_FAILS_FROM");
        const char *when = getenv("FSYNC_FAILS_WHEN");
        const char *hangs = getenv("FSYNC_HANGS_WHEN");
        while (hangs != NULL && access(hangs, F_OK) == 0) usleep(10000);
        long first = from != NULL ? atol(from) : 0;
        long call = atomic_fetch_add(&calls, 1) + 1;
        result = (first > 0 && call >= first) || (when != NULL && access(when, F_OK) == 0);
    }
    errno = result ? EIO : error;
    return result;
}

int fsync(int file) {
    if (fails(file)) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file) {
    if (fails(file)) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}

int sync_file_range(int file, off64_t offset, off64_t count, unsigned int flags) {
    if (fails(file)) return -1;
    return ((int (*)(int, off64_t, off64_t, unsigned int))dlsym(RTLD_NEXT, "sync_file_range"))(
        file, offset, count, flags);
}
