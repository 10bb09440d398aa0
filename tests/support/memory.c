/* Guarded memory: [header page | pages of data | guard page]. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { POISON = 0xff };

typedef struct block_header {
    char *map;
    size_t map_bytes;
    char *pages; /* the data pages */
    size_t page_bytes;
    char *data;
    struct block_header *next;
} block_header;

static block_header *blocks;

static void *map_block(size_t bytes, bool guard_in_front)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t data_pages = (bytes + page - 1) / page * page;
    block_header *block = malloc(sizeof(*block));
    int failed = block == NULL;

    if (!failed) {
        block->map_bytes = data_pages + 2 * page;
        block->map = mmap(NULL, block->map_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        failed = block->map == MAP_FAILED || mprotect(block->map, page, PROT_NONE) != 0 ||
                 mprotect(block->map + page + data_pages, page, PROT_NONE) != 0;
    }
    if (failed) {
        perror("guard_alloc");
        abort();
    }
    block->pages = block->map + page;
    block->page_bytes = data_pages;
    block->data = guard_in_front ? block->pages : block->pages + data_pages - bytes;
    block->next = blocks;
    blocks = block;
    return block->data;
}

void *guard_alloc(size_t bytes)
{
    return map_block(bytes, false);
}

void *guard_alloc_front(size_t bytes)
{
    return map_block(bytes, true);
}

static block_header **find_block(const void *data)
{
    block_header **link = &blocks;

    while (*link != NULL && (*link)->data != data)
        link = &(*link)->next;
    if (*link == NULL) {
        fprintf(stderr, "no guarded block at %p\n", data);
        abort();
    }
    return link;
}

void guard_free(void *data)
{
    block_header **link, *block;

    if (data == NULL)
        return;
    link = find_block(data);
    block = *link;
    *link = block->next;
    munmap(block->map, block->map_bytes);
    free(block);
}

static void protect(void *data, int protection)
{
    const block_header *block = *find_block(data);

    if (block->page_bytes != 0 && mprotect(block->pages, block->page_bytes, protection) != 0) {
        perror("mprotect");
        abort();
    }
}

void guard_readonly(void *data)
{
    protect(data, PROT_READ);
}

void guard_writable(void *data)
{
    protect(data, PROT_READ | PROT_WRITE);
}

void *guard_copy_readonly(const void *data, size_t bytes)
{
    void *copy = guard_alloc(bytes);

    if (bytes != 0)
        memcpy(copy, data, bytes);
    guard_readonly(copy);
    return copy;
}

void poison(void *block, size_t bytes)
{
    if (bytes != 0)
        memset(block, POISON, bytes);
}

bool is_poisoned(const void *block, size_t bytes)
{
    const unsigned char *p = block;

    for (size_t i = 0; i < bytes; i++)
        if (p[i] != POISON)
            return false;
    return true;
}
