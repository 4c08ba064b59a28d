// SPDX-License-Identifier: Apache-2.0
//
// Inside the DCMTK cage only, C++: a data set that comes over an association, taken as bytes before anything
// parses it. DIMSE_receiveDataSetInFile writes it to a SinkStream.

#ifndef ISOSLICE_DICOM_MAP_DCMTK_SINK_H
#define ISOSLICE_DICOM_MAP_DCMTK_SINK_H

#include "dcmtk/config/osconfig.h"

#include "dcmtk/dcmdata/dcostrma.h"
#include "dcmtk/dcmdata/dctk.h"

#include <cstdlib>
#include <cstring>

extern "C" {
#include "core/fault.h"
}

// Never reports an error: a consumer that does makes DCMTK wait for PDVs that never come.
class Sink : public DcmConsumer
{
  public:
    OFBool good() const override
    {
        return OFTrue;
    }
    OFCondition status() const override
    {
        return EC_Normal;
    }
    OFBool isFlushed() const override
    {
        return OFTrue;
    }
    offile_off_t avail() const override
    {
        return 2147483647L;
    }
    offile_off_t write(const void *data, offile_off_t size) override
    {
        if (size > 0)
            take(data, static_cast<size_t>(size));
        return size;
    }
    void flush() override
    {
    }

  protected:
    ~Sink() = default;

  private:
    virtual void take(const void *data, size_t size) = 0;
};

class SinkStream : public DcmOutputStream
{
  public:
    explicit SinkStream(Sink *sink) : DcmOutputStream(sink)
    {
    }
};

// Keeps the bytes in memory, up to a limit; what comes beyond it is dropped and `fault` says so.
class MemorySink final : public Sink
{
  public:
    // `alive` is called with every fragment unless it is null.
    MemorySink(size_t limit, void (*alive)(void *user), void *user)
        : limit_(limit), alive_(alive), user_(user)
    {
    }
    ~MemorySink()
    {
        free(data);
    }
    MemorySink(const MemorySink &) = delete;
    MemorySink &operator=(const MemorySink &) = delete;

    unsigned char *data = nullptr; // [size]
    size_t size = 0;
    int fault = 0; // TOO_LARGE, NO_MEMORY

  private:
    void take(const void *from, size_t n) override
    {
        if (alive_ != nullptr)
            alive_(user_);
        if (fault != 0)
            return;
        void *grown = n > limit_ - size ? nullptr : realloc(data, size + n);
        if (grown == nullptr) {
            fault = n > limit_ - size ? FAULT_TOO_LARGE : FAULT_NO_MEMORY;
            return;
        }
        data = static_cast<unsigned char *>(grown);
        memcpy(data + size, from, n);
        size += n;
    }

    size_t limit_;
    void (*alive_)(void *user);
    void *user_;
};

#endif
